//! Errors as whoever runs a command can use them: where the library's advice names its own calls
//! and options, the commands and theirs stand instead.

use std::error::Error;
use std::io;

/// The text of an error.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let of_library = error.downcast_ref::<sapwood::Error>();
    of_library.and_then(translated).unwrap_or_else(|| error.to_string())
}

/// What the library says otherwise; `None` when it is told as it is.
fn translated(error: &sapwood::Error) -> Option<String> {
    Some(match error {
        sapwood::Error::NotFound(path) => {
            let path = path.display();
            format!("{path} does not exist; `diag_lsm create` makes a new database")
        }
        sapwood::Error::ReadOnly => "the command opened the database read-only and would have \
                                     written: nothing is changed, please report this"
            .into(),
        sapwood::Error::TransactionTooLarge { bytes, limit } => format!(
            "writes of {bytes} bytes are too many for one commit: the limit is {limit}, a quarter \
             of --budget; give a larger one"
        ),
        // What it says counts bytes.
        sapwood::Error::InvalidOption { option: "memory_budget", detail } => {
            format!("--budget (in MiB; these are bytes): {detail}")
        }
        sapwood::Error::Io { operation, file, source } if is_explained(source) => {
            let kind = source.kind();
            format!(
                "{operation} failed on {file}: {kind}; the commands that only read, like `scan` \
                 and `export`, may still open it"
            )
        }
        _ => return None,
    })
}

/// Whether the library has put advice behind what the system said: its cause is a text then, not
/// the number that the system gave.
fn is_explained(source: &io::Error) -> bool {
    let is_refused = matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    );
    is_refused && source.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_advice_names_a_call() {
        let refused =
            io::Error::new(io::ErrorKind::PermissionDenied, "with read_only(true) it may");
        for error in [
            sapwood::Error::NotFound("data.db".into()),
            sapwood::Error::ReadOnly,
            sapwood::Error::TransactionTooLarge { bytes: 7, limit: 5 },
            sapwood::Error::InvalidOption { option: "memory_budget", detail: "too small".into() },
            sapwood::Error::io("opening the file", "data.db", refused),
        ] {
            let told = text(&error);
            for call in ["(true)", "read_only", "put_stream", "memory_budget"] {
                assert!(!told.contains(call), "{told}");
            }
            assert_ne!(told, error.to_string());
        }
    }

    #[test]
    fn other_errors_are_told_as_they_are() {
        let system = io::Error::from_raw_os_error(13);
        let system = sapwood::Error::io("opening the file", "data.db", system);
        for error in [sapwood::Error::Closed, system] {
            assert_eq!(text(&error), error.to_string());
        }
        assert_eq!(text(&io::Error::other("of something else")), "of something else");
    }
}
