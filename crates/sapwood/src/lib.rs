//! Sapwood: an embedded, ordered key-value database in one file.
//!
//! The floors, from the bottom: [`sync`], [`storage`], [`page`], [`segment`], [`log`] and
//! [`memtable`], [`state`] and [`merge`], [`transaction`] and the public face. A lower floor never
//! imports a higher one; a test reads the imports and says so.

#![deny(missing_docs)]

mod error;
mod types;

// Below the public face the items are public inside the crate; tools reach them by a feature.
macro_rules! floors {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        #[cfg(feature = "internals")]
        #[allow(missing_docs, unreachable_pub)]
        $(#[$doc])*
        pub mod $name;
        #[cfg(not(feature = "internals"))]
        #[allow(missing_docs, unreachable_pub, dead_code)]
        $(#[$doc])*
        mod $name;
    )*};
}

floors! { sync, storage, segment }

pub use error::{Corruption, Error, Result, Structure};
