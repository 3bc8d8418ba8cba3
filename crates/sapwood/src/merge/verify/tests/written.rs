//! A state of a file that is written meanwhile: newer states say what is damage.

use super::*;
use crate::error::Structure;

/// A newer state of `file`, as who knows of newer ones gives it.
fn newer(file: &File, generation: u64, contents: &Contents) -> Newer {
    file.pages.write_unwritten().unwrap();
    Newer::State(Arc::new(NewerState {
        generation,
        pages: file.pages.clone(),
        contents: contents.clone(),
    }))
}

impl File {
    /// Checks a state of generation 1 beside one of generation 2.
    fn verify_beside(&self, state: &Contents, next: &Contents) -> (VerifyReport, Meanwhile) {
        let next = newer(self, 2, next);
        let mut newest = |generation| if generation == 2 { Newer::Same } else { next.clone() };
        let owners = Some(StateOwners::default());
        let pages = &self.pages;
        verify_written(pages, state, owners.as_ref(), 1, &mut newest, &mut |_, _| true).unwrap()
    }

    fn flip_block(&self, block: Block) {
        self.flip(self.pages.layout().offset_of(block.first) + 60);
    }
}

/// A state with one segment in its last level, which has this number and tree.
fn state_of(segment: &Segment, number: u64, points: &TreeRoot) -> Contents {
    contents(None, Some(Segment { number, points: Some(points.clone()), ..segment.clone() }))
}

#[test]
fn what_newer_states_have_replaced_is_no_damage_and_what_they_reference_is() {
    let file = file();
    let (young, segment) = (file.young_segment(300), file.level_segment(15_000));
    let before = contents(Some(young.clone()), Some(segment.clone()));
    // The young segment has gone, and so have keys of the level, and two lowest parents.
    let root = segment.points.clone().unwrap();
    let node = read_parent(&file.pages, &root.reference, KEYSPACE, 2).unwrap();
    let separators: Vec<_> =
        entries_of(&node, root.birth).unwrap().into_iter().map(|entry| entry.separator).collect();
    let edit = TreeEdit::new(&file.pages, KEYSPACE, Epoch(5));
    let change = edit.replace(&root, &separators[5], Some(&separators[7]), Vec::new()).unwrap();
    let gone: KeyRanges = [KeyRange::new(key(200), Some(key(2345)))].into_iter().collect();
    let points = change.root;
    let after = contents(None, Some(Segment { points, promoted: Arc::new(gone), ..segment }));
    file.pages.write_unwritten().unwrap();
    let old = walk_blocks(&file.pages, &before).unwrap();
    let dead = difference(&old, &walk_blocks(&file.pages, &after).unwrap());
    let kinds: BTreeSet<NodeKind> = dead.iter().map(|live| live.what).collect();
    assert_eq!(kinds.len(), 6, "all kinds of nodes: {kinds:?}");
    // Each by itself, since what lies below a lost one is not read.
    for (index, live) in dead.iter().enumerate().filter(|(index, _)| index % 7 == 0) {
        file.flip_block(live.block);
        assert!(!file.verify(&before).is_clean(), "{index}, {live:?}");
        let (report, meanwhile) = file.verify_beside(&before, &after);
        assert!(report.is_clean(), "{index}, {live:?}: {report}");
        assert!(meanwhile.moved && meanwhile.replaced == 1 && meanwhile.given_up == 0);
        assert!(!report.space_checked);
        file.flip_block(live.block);
    }
    dead.iter().for_each(|live| file.flip_block(live.block));
    let (report, meanwhile) = file.verify_beside(&before, &after);
    assert!(report.is_clean() && meanwhile.replaced > 3, "{meanwhile:?}: {report}");
    // The root is lost, and all that is left is checked as of the newer state.
    let live: Vec<_> = old.values().filter(|live| !dead.contains(live)).collect();
    for live in live.iter().step_by(13) {
        file.flip_block(live.block);
        let (report, _) = file.verify_beside(&before, &after);
        assert_eq!(report.problem_count, 1, "{live:?}: {report}");
        assert_eq!(report.problems[0].page, Some(live.block.first), "{report}");
        file.flip_block(live.block);
    }
}

#[test]
fn damage_that_both_states_reference_is_found_once() {
    let file = file();
    let state = contents(Some(file.young_segment(300)), Some(file.level_segment(900)));
    file.pages.write_unwritten().unwrap();
    for live in walk_blocks(&file.pages, &state).unwrap().values() {
        file.flip_block(live.block);
        let (report, meanwhile) = file.verify_beside(&state, &state);
        assert_eq!(report.problem_count, 1, "{live:?}: {report}");
        assert_eq!(report.problems[0].page, Some(live.block.first), "{report}");
        assert!(meanwhile.moved && meanwhile.given_up == 0);
        file.flip_block(live.block);
    }
}

#[test]
fn a_damaged_value_is_found_in_the_level_that_it_has_moved_to() {
    let file = file();
    let segment = file.level_segment(900);
    let before = contents(None, Some(segment.clone()));
    file.pages.write_unwritten().unwrap();
    let blocks = walk_blocks(&file.pages, &before).unwrap();
    let value = blocks.values().find(|live| live.what == NodeKind::OverflowValue).unwrap();
    file.flip_block(value.block);
    let all: KeyRanges = [KeyRange::new(Vec::new(), Some(key(890)))].into_iter().collect();
    let source = Segment { promoted: Arc::new(all), ..segment.clone() };
    let mut after = contents(None, Some(source.clone()));
    let (report, meanwhile) = file.verify_beside(&before, &after);
    assert!(report.is_clean() && meanwhile.replaced == 1, "{report}");
    let deeper = Segment { number: 10, ..segment };
    let levels = vec![vec![Arc::new(source)], vec![Arc::new(deeper)]];
    after.levels = [(KEYSPACE, Arc::new(Levels::new(levels)))].into();
    let (report, _) = file.verify_beside(&before, &after);
    // Both segments have the parent here, which in a database they have not.
    let of_values = |problem: &&Problem| problem.structure == Some(Structure::Overflow);
    let found: Vec<_> = report.problems.iter().filter(of_values).collect();
    assert_eq!(found.len(), 1, "{report}");
    assert_eq!(found[0].page, Some(value.block.first));
}

#[test]
fn what_is_replaced_again_and_again_is_given_up() {
    let file = file();
    let segment = file.level_segment(900);
    file.pages.write_unwritten().unwrap();
    let mut root = segment.points.clone().unwrap();
    let walked = |newest: &mut Newest<'_>, root: &TreeRoot| {
        let state = state_of(&segment, 8, root);
        verify_written(&file.pages, &state, None, 1, newest, &mut |_, _| true).unwrap()
    };
    root.reference.stamp ^= 1;
    let (report, meanwhile) = walked(&mut |_| Newer::TooFast, &root);
    assert!(report.is_clean());
    assert_eq!((meanwhile.replaced, meanwhile.given_up), (1, 1));
    assert_eq!(meanwhile.unjudged[0].page, Some(root.reference.page));
    // Each state has another root, and each is gone when it is read.
    let lost = root.clone();
    let mut next = |generation: u64| {
        let mut root = lost.clone();
        root.reference.checksum ^= generation as u32;
        newer(&file, generation + 1, &state_of(&segment, 8, &root))
    };
    let (report, meanwhile) = walked(&mut next, &root);
    assert!(report.is_clean());
    assert_eq!((meanwhile.given_up, meanwhile.unjudged.len()), (1, 1));
    assert!((5..50).contains(&meanwhile.replaced), "{meanwhile:?}");
}
