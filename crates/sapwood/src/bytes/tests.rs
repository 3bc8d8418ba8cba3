use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::page::{Codec, Layout, MemoryBudget, NodeKind, NodeSpec, PageManager, PageOptions};
use crate::storage::MemoryStorage;
use crate::types::KeyspaceNumber;
use proptest::prelude::*;

fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(0u8..3, 0..30),
        (0usize..3000).prop_map(|len| vec![7; len]),
        (1020usize..1030).prop_map(|len| vec![7; len]),
    ]
}

proptest! {
    #[test]
    fn keys_and_values_act_as_their_bytes_do(a in bytes(), b in bytes()) {
        for (x, y) in [
            (Key::from(a.clone()), Key::from(b.as_slice())),
            (Key::from(a.as_slice()).clone(), Key::from(b.clone().into_boxed_slice())),
        ] {
            prop_assert_eq!(&x, &a);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
            prop_assert_eq!(hash_of(&x), hash_of(a.as_slice()));
            prop_assert_eq!(x.into_vec(), a.clone());
        }
        for (x, y) in [
            (Value::from(a.clone()), Value::from(b.as_slice())),
            (Value::from(a.as_slice()).clone(), Value::from(b.clone().into_boxed_slice())),
        ] {
            prop_assert_eq!(&x, &a);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
            prop_assert_eq!(hash_of(&x), hash_of(a.as_slice()));
            prop_assert_eq!(x.into_vec(), a.clone());
        }
    }
}

#[test]
fn twenty_two_bytes_lie_in_place_and_twenty_three_do_not() {
    assert!(matches!(Key::from(&[1; 22]).0, KeyBytes::Inline(_)));
    assert!(matches!(Key::from(&[1; 23]).0, KeyBytes::Boxed(_)));
    assert!(matches!(Value::from(&[1; 22]).0, ValueBytes::Inline(_)));
    assert!(matches!(Value::from(&[1; 1024]).0, ValueBytes::Boxed(_)));
    assert!(matches!(Value::from(&[1; 1025]).0, ValueBytes::Shared(_)));
}

#[test]
fn clones_of_a_large_value_share_its_bytes_and_the_last_one_gives_them_away() {
    let value = Value::from(vec![1; 5000]);
    let address = value.as_ptr();
    let clone = value.clone();
    assert_eq!(clone.as_ptr(), address);
    let (copied, given_away) = (value.into_vec(), clone.into_vec());
    assert_ne!(copied.as_ptr(), address);
    assert_eq!(given_away.as_ptr(), address);
}

#[test]
fn sets_of_keys_are_searched_with_plain_bytes() {
    let hashed: HashSet<Key> = [Key::from("a"), Key::from(vec![b'b'; 40])].into();
    assert!(hashed.contains(b"a".as_slice()) && hashed.contains([b'b'; 40].as_slice()));
    let sorted: BTreeSet<Key> = hashed.into_iter().collect();
    assert!(sorted.contains(b"a".as_slice()) && !sorted.contains(b"b".as_slice()));
}

#[test]
fn keys_and_values_equal_text_and_arrays() {
    let (key, value) = (Key::from("ab"), Value::from(String::from("ab")));
    assert!(key == "ab" && key == *b"ab" && key == b"ab");
    let text = String::from("ab");
    assert!(key == text && text == value);
    assert!(value == "ab" && value == *b"ab" && value == b"ab" && *"ab" == value);
    assert!(key == b"ab"[..] && vec![b'a', b'b'] == key && key != "abc");
    assert!(Key::default().is_empty() && Value::default().is_empty());
}

#[test]
fn debug_shows_escaped_bytes_and_cuts_what_is_long() {
    assert_eq!(format!("{:?}", Key::from(b"a\"\0\xff")), r#"b"a\"\x00\xff""#);
    assert_eq!(format!("{:?}", Value::default()), r#"b"""#);
    let exact = format!("b\"{}\"", "x".repeat(64));
    assert_eq!(format!("{:?}", Value::from("x".repeat(64))), exact);
    assert_eq!(format!("{:?}", Value::from("x".repeat(70))), format!("{exact}... (70 bytes)"));
}

/// A cached node with that content.
fn frame(content: &[u8]) -> Arc<Frame> {
    let layout = Layout::new(4096, 0, 1 << 20, [3; 16]).unwrap();
    let options = PageOptions {
        storage: Arc::new(MemoryStorage::new()),
        layout,
        budget: Arc::new(MemoryBudget::new(8 << 20)),
        max_file_bytes: None,
    };
    let pages = PageManager::create(options, 1000).unwrap();
    let spec = NodeSpec {
        kind: NodeKind::Leaf,
        height: 0,
        flags: 0,
        keyspace: KeyspaceNumber(1),
        codec: Codec::Plain,
    };
    let reference = pages.put_unwritten(&spec, content).unwrap();
    pages.read_node(&reference, NodeKind::Leaf).unwrap()
}

#[test]
fn a_large_value_holds_its_frame_and_a_small_one_is_copied() {
    let content: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
    let frame = frame(&content);
    let held_before = Arc::strong_count(&frame);
    for range in [0..0, 5..27, 5..28, 100..1124] {
        let value = Value::from_frame(Arc::clone(&frame), range.clone());
        assert_eq!(value, content[range]);
        assert_eq!(Arc::strong_count(&frame), held_before);
    }
    let value = Value::from_frame(Arc::clone(&frame), 100..1125);
    let clone = value.clone();
    assert_eq!(Arc::strong_count(&frame), held_before + 2);
    assert_eq!(value.as_ptr(), frame.content()[100..].as_ptr());
    drop(frame);
    assert_eq!(clone, content[100..1125]);
    assert_eq!(value.into_vec(), content[100..1125]);
}

#[test]
#[should_panic(expected = "a value lies outside of its node")]
fn a_value_outside_of_its_node_is_an_error_of_the_program() {
    let frame = frame(&[1; 100]);
    let _ = Value::from_frame(frame, 90..101);
}
