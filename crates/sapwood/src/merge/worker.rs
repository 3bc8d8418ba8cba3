//! A stand-in for the merge threads.

use crate::error::Result;
use crate::state::Core;
use crate::sync::Arc;

/// The merge threads.
#[derive(Debug)]
pub struct Workers;

impl Workers {
    /// Starts them.
    #[allow(clippy::unnecessary_wraps)]
    pub fn start(_core: &Arc<Core>) -> Result<Workers> {
        Ok(Workers)
    }

    /// Joins them.
    pub fn stop(self) {}
}
