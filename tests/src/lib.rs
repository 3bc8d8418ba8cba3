//! Tests of whole databases live in `tests/`, one binary a theme.
