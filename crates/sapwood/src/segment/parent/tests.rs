use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

type Children = std::collections::BTreeMap<Vec<u8>, Child>;

const FIRST_PAGE: u64 = 1 << 40;

fn reference() -> impl Strategy<Value = NodeRef> {
    (FIRST_PAGE..FIRST_PAGE + (1 << 32), 1_u32..=65_535, any::<u32>(), any::<u32>()).prop_map(
        |(page, pages, stamp, checksum)| NodeRef { page: PageNumber(page), pages, stamp, checksum },
    )
}

fn child(lowest: bool, pieces: u32) -> impl Strategy<Value = Child> {
    let numbers = (any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>());
    let filter = (any::<bool>(), any::<u32>(), 0..=u32::MAX - 1);
    let below = (prop_oneof![Just(0), any::<u64>()], any::<u64>(), any::<bool>());
    (reference(), numbers, filter, below).prop_map(move |(reference, numbers, filter, below)| {
        let (entries, tombstones, birth, dictionary) = numbers;
        let (piece, lines) = (filter.1 % pieces.max(1), filter.2 + 1);
        let slot = FilterSlot { piece, first_line: filter.1, lines };
        Child {
            reference,
            entries,
            tombstones,
            birth: birth.map(Epoch),
            below: if lowest {
                Below::Leaf { overflow_pages: below.0 }
            } else {
                Below::Parent { pages: below.0, leaves: below.1, overflow: below.2 }
            },
            filter: (lowest && pieces > 0 && filter.0).then_some(slot),
            dictionary,
            unused: if lowest { (entries % 16) as u8 } else { 0 },
        }
    })
}

#[derive(Clone, Debug)]
struct Model {
    height: u8,
    children: Children,
    pieces: Vec<NodeRef>,
    lists: Vec<NodeRef>,
}

/// So that each leaf's filter lies behind that of the leaf before it.
fn in_order(children: &mut Children) {
    let slots = || children.values().filter_map(|child| child.filter);
    let mut pieces: Vec<u32> = slots().map(|slot| slot.piece).collect();
    pieces.sort_unstable();
    let mut end = (0, 0);
    let slots = children.values_mut().filter_map(|child| child.filter.as_mut());
    for (slot, piece) in slots.zip(pieces) {
        if piece != end.0 {
            end = (piece, 0);
        }
        // Of thirty the last one still ends below 2^32.
        slot.piece = piece;
        slot.first_line = end.1 + slot.first_line % (1 << 26);
        slot.lines = slot.lines % (1 << 26) + 1;
        end.1 = slot.first_line + slot.lines;
    }
}

/// So that nothing of a sidecar lies over another.
fn apart(references: &mut [NodeRef], from: u64) {
    for (index, reference) in (from..).zip(references) {
        reference.page = PageNumber(FIRST_PAGE + (index << 17) + reference.page.0 % (1 << 16));
    }
}

fn model() -> impl Strategy<Value = Model> {
    (1_u8..4, vec(reference(), 0..4), vec(reference(), 1..3)).prop_flat_map(
        |(height, mut pieces, mut lists)| {
            apart(&mut pieces, 0);
            apart(&mut lists, 4);
            let lowest = height == 1;
            let key = prop_oneof![vec(0_u8..3, 0..7), vec(any::<u8>(), 0..9)];
            let children =
                btree_map(key, child(lowest, pieces.len() as u32), pieces.len().max(1)..30);
            children.prop_map(move |mut children| {
                in_order(&mut children);
                Model {
                    height,
                    children,
                    pieces: if lowest { pieces.clone() } else { Vec::new() },
                    lists: if lowest { lists.clone() } else { Vec::new() },
                }
            })
        },
    )
}

fn build(model: &Model) -> (Vec<u8>, bool) {
    let mut builder = ParentBuilder::new(model.height);
    for (index, piece) in model.pieces.iter().enumerate() {
        assert_eq!(builder.push_piece(*piece), index as u32);
    }
    model.lists.iter().for_each(|list| builder.push_overflow_list(*list));
    model.children.iter().for_each(|(separator, child)| builder.push(separator, child));
    let estimate = builder.estimated_bytes();
    let mut content = Vec::new();
    let info = builder.finish(&mut content).unwrap();
    assert!(builder.is_empty());
    assert!(content.len() <= estimate);
    assert_eq!(info.wide, content.len() > 65_535);
    (content, info.wide)
}

proptest! {
    #[test]
    fn what_was_built_is_read_back(model in model()) {
        let (content, wide) = build(&model);
        let parent = Parent::parse(&content, model.height, wide).unwrap();
        prop_assert_eq!(parent.check(), Ok(()));
        prop_assert_eq!(parent.len(), model.children.len());
        let mut key = Vec::new();
        for (index, (separator, child)) in model.children.iter().enumerate() {
            parent.separator(index, &mut key).unwrap();
            prop_assert_eq!(&key, separator);
            prop_assert_eq!(parent.child(index), Ok(*child));
            prop_assert_eq!(parent.child_reference(index), Ok(child.reference));
        }
        for (references, expected) in
            [(parent.pieces(), &model.pieces), (parent.overflow_lists(), &model.lists)]
        {
            let read: Result<Vec<_>, _> =
                (0..references.len()).map(|i| references.get(i)).collect();
            prop_assert_eq!(read.as_ref(), Ok(expected));
            prop_assert!(references.get(expected.len()).is_err());
        }
    }

    #[test]
    fn each_key_leads_to_the_last_separator_at_or_below_it(
        model in model(), mut probes in vec(vec(any::<u8>(), 0..9), 0..20),
    ) {
        let (content, wide) = build(&model);
        let parent = Parent::parse(&content, model.height, wide).unwrap();
        for separator in model.children.keys() {
            probes.push(separator.clone());
            probes.push([&separator[..], &[0]].concat());
        }
        for probe in probes {
            let at_or_below = model.children.keys().filter(|s| **s <= probe).count();
            prop_assert_eq!(parent.child_for(&probe), at_or_below.saturating_sub(1));
        }
    }
}

fn plain_child(page: u64) -> Child {
    Child {
        reference: NodeRef { page: PageNumber(page), pages: 1, stamp: 0, checksum: 0 },
        entries: 1,
        tombstones: 0,
        birth: None,
        below: Below::Leaf { overflow_pages: 0 },
        filter: None,
        dictionary: None,
        unused: 0,
    }
}

/// A parent of few leaves that named one list 65,000 times had whoever reads them all read on and
/// on; a prefix that tens of thousands of children share made them gigabytes of separators.
#[test]
fn a_parent_names_no_more_than_a_writer_would() {
    let problem = |height: u8, children: u64, pieces: &[u64], lists: &[u64]| {
        let mut builder = ParentBuilder::new(height);
        let node = |page: &u64| NodeRef { pages: 2, ..plain_child(1000 + page).reference };
        pieces.iter().for_each(|page| _ = builder.push_piece(node(page)));
        lists.iter().for_each(|page| builder.push_overflow_list(node(page)));
        for index in 0..children {
            let below = match height {
                1 => Below::Leaf { overflow_pages: 0 },
                _ => Below::Parent { pages: 1, leaves: 1, overflow: false },
            };
            builder.push(&index.to_be_bytes(), &Child { below, ..plain_child(index) });
        }
        let mut content = Vec::new();
        let wide = builder.finish(&mut content).unwrap().wide;
        Parent::parse(&content, height, wide).unwrap().check().err().map(|problem| problem.0)
    };
    let lists: Vec<u64> = (0..65).map(|index| index * 2).collect();
    assert_eq!(problem(1, 2, &[0, 2], &[4, 6, 8]), None);
    assert_eq!(problem(1, 1, &[], &lists[..64]), None);
    assert_eq!(problem(2, 160, &[], &[]), None);
    let over = Some("nodes beside a parent lie one over the other");
    assert_eq!(problem(1, 2, &[0, 2], &[4, 4]), over);
    assert_eq!(problem(1, 2, &[0, 4], &[8, 5]), over);
    let pieces = Some("a parent has more filter pieces than children");
    assert_eq!(problem(1, 2, &[0, 2, 4], &[]), pieces);
    let too_many = Some("a parent has too many overflow lists for its children");
    assert_eq!(problem(1, 1, &[], &lists), too_many);
    let children = Some("an upper parent has more than 160 children");
    assert_eq!(problem(2, 161, &[], &[]), children);
}

fn use_all(content: &[u8], height: u8, wide: bool) -> bool {
    let Ok(parent) = Parent::parse(content, height, wide) else {
        return false;
    };
    let mut out = Vec::new();
    for index in 0..parent.len().min(100) {
        let _ = parent.child(index);
        let _ = parent.child_reference(index);
        let _ = parent.separator(index, &mut out);
        let _ = parent.compare_separator(index, b"sepb");
    }
    for index in 0..parent.pieces().len() {
        let _ = parent.pieces().get(index);
    }
    for probe in [&b""[..], b"sep", b"sepbxx", b"t"] {
        assert!(parent.child_for(probe) < parent.len());
    }
    parent.check().is_ok()
}

fn small_model(height: u8) -> Model {
    let reference = |n: u64| NodeRef {
        page: PageNumber(70 + n * 2),
        pages: 2,
        stamp: 7,
        checksum: 0xdead_beef,
    };
    let lowest = height == 1;
    let slot = |n: u64| FilterSlot { piece: 0, first_line: 3 + n as u32 * 2, lines: 2 };
    let child = |n: u64| Child {
        reference: reference(n),
        entries: 130,
        tombstones: n,
        birth: (n == 1).then_some(Epoch(9)),
        below: if lowest {
            Below::Leaf { overflow_pages: n }
        } else {
            Below::Parent { pages: 400, leaves: 64, overflow: n == 2 }
        },
        filter: (lowest && n < 2).then_some(slot(n)),
        dictionary: (n == 2).then_some(5),
        unused: 0,
    };
    let keys = [&b""[..], b"sepaaa", b"sepbbbbb"];
    Model {
        height,
        children: keys.iter().zip(0..).map(|(key, n)| (key.to_vec(), child(n))).collect(),
        pieces: if lowest { vec![reference(9)] } else { vec![] },
        lists: if lowest { vec![reference(8)] } else { vec![] },
    }
}

#[test]
fn no_truncation_is_taken_for_a_parent() {
    for height in [1, 2] {
        let (content, wide) = build(&small_model(height));
        assert!(use_all(&content, height, wide));
        for end in 0..content.len() {
            assert!(Parent::parse(&content[..end], height, wide).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn flipped_bits_and_wrong_heights_never_panic() {
    let (mut noticed, mut all) = (0, 0);
    for height in [1, 2] {
        let (content, wide) = build(&small_model(height));
        for bit in 0..content.len() * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            all += 1;
            noticed += usize::from(!use_all(&damaged, height, wide));
        }
        assert!(!use_all(&content, 3 - height, wide));
        assert!(Parent::parse(&content, 0, wide).is_err());
        use_all(&content, height, !wide);
    }
    assert!(noticed * 4 > all, "only {noticed} of {all} flipped bits were noticed");
}

#[test]
fn nodes_too_far_apart_or_too_long_are_refused_and_the_builder_keeps_them() {
    let mut builder = ParentBuilder::new(2);
    let children: Vec<Child> = small_model(2).children.into_values().collect();
    let mut far = children[1];
    far.reference.page.0 = children[0].reference.page.0 + (1 << 32);
    builder.push(b"", &children[0]);
    builder.push(b"b", &far);
    let mut out = Vec::new();
    assert!(builder.finish(&mut out).is_err());
    assert_eq!((builder.len(), out.len()), (2, 0));
    builder.clear();
    far.reference.page.0 -= 1;
    builder.push(b"", &children[0]);
    builder.push(b"b", &far);
    assert!(builder.finish(&mut out).is_ok());
    let parent = Parent::parse(&out, 2, false).unwrap();
    assert_eq!(parent.child(1), Ok(far));
    far.reference.pages = 65_536;
    builder.push(b"", &far);
    assert!(builder.finish(&mut out).is_err());
}

#[test]
fn check_refuses_what_a_parent_may_not_say() {
    let problem = |change: &dyn Fn(&mut Model)| {
        let mut model = small_model(1);
        change(&mut model);
        let (content, wide) = build(&model);
        Parent::parse(&content, 1, wide).unwrap().check().map_err(|problem| problem.0)
    };
    assert_eq!(problem(&|_| {}), Ok(()));
    let slot = |piece, lines| Some(FilterSlot { piece, first_line: 0, lines });
    let first = |model: &mut Model, filter| {
        model.children.get_mut(&b""[..]).unwrap().filter = filter;
    };
    assert!(problem(&|m| first(m, slot(1, 1))).unwrap_err().contains("not there"));
    assert!(problem(&|m| first(m, slot(0, 0))).unwrap_err().contains("no lines"));
    assert!(problem(&|m| m.lists.clear()).unwrap_err().contains("no list"));
}

/// Leaves that all named one piece as their own had a step take it up once for each.
#[test]
fn filters_of_leaves_follow_one_another_in_their_pieces() {
    let problem = |slots: &[Option<(u32, u32, u32)>]| {
        let mut builder = ParentBuilder::new(1);
        for page in [1000, 1002] {
            builder.push_piece(plain_child(page).reference);
        }
        for (index, slot) in (0..).zip(slots) {
            let named = |(piece, first_line, lines)| FilterSlot { piece, first_line, lines };
            let child = Child { filter: slot.map(named), ..plain_child(u64::from(index)) };
            builder.push(&[index], &child);
        }
        let mut content = Vec::new();
        let wide = builder.finish(&mut content).unwrap().wide;
        Parent::parse(&content, 1, wide).unwrap().check().err().map(|problem| problem.0)
    };
    assert_eq!(problem(&[Some((0, 0, 4)), None, Some((0, 4, 3)), Some((1, 0, 1))]), None);
    assert_eq!(problem(&[Some((0, 7, 4)), Some((0, 20, 3)), None, Some((1, 2, 1))]), None);
    assert_eq!(problem(&[None, Some((1, 0, u32::MAX)), Some((1, u32::MAX, u32::MAX))]), None);
    let over = Some("leaves' filters lie one over the other, or out of order");
    assert_eq!(problem(&[Some((0, 0, 4)), Some((0, 0, 4))]), over);
    assert_eq!(problem(&[Some((0, 0, 4)), None, Some((0, 3, 1))]), over);
    assert_eq!(problem(&[Some((0, 4, 1)), Some((0, 0, 4))]), over);
    assert_eq!(problem(&[Some((1, 0, 1)), Some((0, 0, 1))]), over);
    assert_eq!(problem(&[Some((0, 1, u32::MAX)), Some((0, u32::MAX, 1))]), over);
}
