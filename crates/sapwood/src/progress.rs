//! How long calls report what they have done, and are cancelled.

/// Is told how far a long call has come, and can end it.
///
/// Closures that take the two numbers are one, and so is `()`, which lets the call run in silence.
/// No lock is held while one runs: it may use the database, and close it, which ends the call with
/// [`Error::Closed`](crate::Error::Closed). When it panics, the call ends as if it was cancelled,
/// and the panic passes through.
///
/// # Examples
/// ```
/// use sapwood::Progress;
///
/// let mut steps = Vec::new();
/// let mut progress = |done: u64, total: u64| {
///     steps.push((done, total));
///     done < 2
/// };
/// assert!(progress.report(1, 3));
/// assert!(!progress.report(2, 3), "it asks for the end");
/// assert!(().report(1, 3));
/// ```
pub trait Progress {
    /// `done` of about `total` units are done; what is counted depends on the call. Returns false
    /// to cancel it.
    fn report(&mut self, done: u64, total: u64) -> bool;
}

impl Progress for () {
    fn report(&mut self, _done: u64, _total: u64) -> bool {
        true
    }
}

impl<F: FnMut(u64, u64) -> bool> Progress for F {
    fn report(&mut self, done: u64, total: u64) -> bool {
        self(done, total)
    }
}
