//! What the reserve holds at the sizes that nobody changes, on a device smaller than the budget.

use crash_lsm::access;
use sapwood::state::reserve::{Brings, has_room};
use sapwood::storage::{CrashPlan, SimulatedStorage};
use sapwood::sync::{Arc, Clock, FakeClock, Random};
use sapwood::{Database, Durability, Error, Isolation, Keyspace};

const DEVICE_BYTES: u64 = 24 << 20;

/// Nobody but the test works, and time stands still.
struct Small {
    database: Database,
    keyspace: Keyspace,
    storage: SimulatedStorage,
    random: Random,
    _hand: FakeClock,
}

impl Small {
    fn new(seed: u64) -> Small {
        let storage = SimulatedStorage::new();
        storage.set_capacity(DEVICE_BYTES);
        Small::open(storage, Random::from_seed(seed))
    }

    fn open(storage: SimulatedStorage, random: Random) -> Small {
        let (clock, hand) = Clock::fake();
        let builder = Database::builder().merge_threads(0).clock(clock);
        let builder = builder.durability(Durability::Buffered);
        let database = builder.open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        Small { database, keyspace, storage, random, _hand: hand }
    }

    /// The process ends without a word, and another one opens the file.
    fn crash_and_open(self) -> Small {
        let storage = self.storage.crash_with(CrashPlan::KeepAll);
        drop((self.keyspace, self.database));
        Small::open(storage, self.random)
    }

    /// Puts values of about so many bytes until there is no space; how many.
    fn fill(&mut self, bytes: u64) -> u64 {
        for n in 0_u64.. {
            let mut value = vec![0; (bytes + self.random.below(1 + bytes / 50)) as usize];
            self.random.fill(&mut value);
            match self.keyspace.put(n.to_be_bytes(), value) {
                Ok(()) => {}
                Err(Error::NoSpace { .. }) => return n,
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!()
    }

    /// Deletes the first so many, and puts as many again.
    fn delete_and_put_again(&mut self, bytes: u64, count: u64) {
        for n in 0..count {
            self.keyspace.delete(n.to_be_bytes()).unwrap();
        }
        self.database.wait_until_idle().unwrap();
        assert_eq!(access::verify(&self.database).unwrap(), None);
        for n in 0..count / 2 {
            let mut value = vec![0; bytes as usize];
            self.random.fill(&mut value);
            self.keyspace.put(n.to_be_bytes(), value).unwrap();
        }
    }
}

/// Lengths of which a leaf has few, and wastes much beside them. What was promised for them was
/// less than they took, so that their flush had no place, nothing was merged behind it, and in the
/// end not even a deletion was taken.
#[test]
fn entries_that_waste_much_of_their_leaves_are_flushed_and_deleted() {
    for bytes in [1000, 2050, 2750, 4200, 5000, 8300, 12_300] {
        let mut small = Small::new(bytes);
        let count = small.fill(bytes);
        let held = count * bytes;
        assert!(held > DEVICE_BYTES / 4, "{bytes}: only {held} bytes fitted");
        small.database.flush().unwrap_or_else(|error| panic!("{bytes}: {error}"));
        let mut small = small.crash_and_open();
        small.delete_and_put_again(bytes, count / 2);
    }
}

/// The same after the process was killed before anything was flushed.
#[test]
fn entries_that_waste_much_of_their_leaves_are_deleted_after_a_crash() {
    for bytes in [2750, 4200, 8300] {
        let mut small = Small::new(bytes);
        let count = small.fill(bytes);
        let mut small = small.crash_and_open();
        small.delete_and_put_again(bytes, count / 2);
    }
}

/// One page each is little, and a thousand of them are the whole reserve.
#[test]
fn the_first_pairs_of_many_keyspaces_leave_the_reserve() {
    let mut small = Small::new(41);
    let names: Vec<String> = (0..1000).map(|n| format!("tenant {n}")).collect();
    let tenants: Vec<Keyspace> =
        names.iter().map(|name| small.database.keyspace(name).unwrap()).collect();
    let count = small.fill(1000);
    // Just enough that some of them have room.
    for n in 0..count {
        if has_room(&small.database.core().unwrap(), Brings::Data, 256 << 10) {
            break;
        }
        small.keyspace.delete(n.to_be_bytes()).unwrap();
        if n % 100 == 99 {
            small.database.wait_until_idle().unwrap();
        }
    }
    let mut put = 0;
    for tenant in &tenants {
        match tenant.put("first", [7; 50]) {
            Ok(()) => put += 1,
            Err(Error::NoSpace { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(put > 20, "{put} tenants have a pair");
    small.database.wait_until_idle().unwrap();
    small.keyspace.delete((count - 1).to_be_bytes()).unwrap();
    small.database.drop_keyspace("a").unwrap();
    small.database.wait_until_idle().unwrap();
    for tenant in &tenants {
        tenant.put("first", [8; 50]).unwrap();
    }
    assert_eq!(access::verify(&small.database).unwrap(), None);
}

/// In memory each takes several times what it takes in the log and in a leaf.
#[test]
fn many_deletions_at_once_are_asked_for_the_room_that_they_take() {
    for in_transaction in [false, true] {
        let mut small = Small::new(42);
        let count = small.fill(200).min(20_000);
        assert_eq!(count, 20_000);
        if in_transaction {
            let mut transaction = small.database.begin(Isolation::Snapshot).unwrap();
            for n in 0..count {
                transaction.delete(&small.keyspace, n.to_be_bytes()).unwrap();
            }
            transaction.commit().unwrap();
        } else {
            let mut batch = small.database.batch();
            for n in 0..count {
                batch.delete(&small.keyspace, n.to_be_bytes()).unwrap();
            }
            batch.commit().unwrap();
        }
        small.database.wait_until_idle().unwrap();
        assert!(small.keyspace.get(0_u64.to_be_bytes()).unwrap().is_none());
        small.keyspace.put("again", vec![1; 100_000]).unwrap();
    }
}
