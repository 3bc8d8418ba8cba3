//! A storage that refuses what the test says, call by call.

use std::io;

use crash_lsm::hooked::HookedStorage;
use sapwood::storage::{OperationKind, SimulatedStorage};
use sapwood::sync::Arc;

/// What a refused call says.
pub const REFUSED: &str = "the test refuses it";

/// `refuses` is asked before each call, by the thread that makes it.
pub fn refusing(
    inner: &SimulatedStorage,
    refuses: impl Fn(OperationKind) -> Option<io::ErrorKind> + Send + Sync + 'static,
) -> HookedStorage {
    HookedStorage::new(Arc::new(inner.clone()), move |kind, _| {
        refuses(kind).map_or(Ok(()), |error| Err(io::Error::new(error, REFUSED)))
    })
}
