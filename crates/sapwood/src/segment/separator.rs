//! The shortest separator between two keys.
//!
//! *Format*: docs/format.md, section 4.2.

use super::sorted_block_builder::common_bytes;

/// Puts into `out` the shortest key `s` with `left < s <= right`. `left` must be below `right`.
pub fn shortest_separator(left: &[u8], right: &[u8], out: &mut Vec<u8>) {
    debug_assert!(left < right, "only a lesser and a greater key can be separated");
    // Whatever is at most as long as the common start and at most `right` is at most `left`; one
    // byte more suffices.
    let bytes = common_bytes(left, right).saturating_add(1).min(right.len());
    out.clear();
    out.extend_from_slice(&right[..bytes]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(0_u8..3, 0..12), vec(any::<u8>(), 0..20)]
    }

    proptest! {
        #[test]
        fn the_separator_separates_and_no_shorter_one_does(a in key(), b in key()) {
            prop_assume!(a != b);
            let (left, right) = if a < b { (a, b) } else { (b, a) };
            let mut separator = vec![9; 3];
            shortest_separator(&left, &right, &mut separator);
            prop_assert!(left < separator && separator <= right);
            // The greatest candidate of a length is the start of `right`.
            let shorter = &right[..separator.len() - 1];
            prop_assert!(shorter <= &left[..]);
        }
    }
}
