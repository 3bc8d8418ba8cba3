//! A stand-in for the steps.

use crate::error::Result;
use crate::state::Core;
use crate::sync::Arc;

macro_rules! nothing {
    ($($name:ident -> $type:ty = $value:expr;)*) => {$(
        #[allow(missing_docs, clippy::missing_errors_doc, clippy::unnecessary_wraps)]
        pub fn $name(_core: &Arc<Core>) -> Result<$type> {
            Ok($value)
        }
    )*};
}

nothing! {
    run_step -> bool = false;
    wait_until_idle -> () = ();
    flush -> () = ();
    sync -> () = ();
    compact -> () = ();
    close -> () = ();
}
