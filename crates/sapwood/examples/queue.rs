//! A queue that several workers take jobs from: none is lost, and none is done twice unless a
//! worker dies between doing it and saying so.
//!
//! `cargo run -p sapwood --example queue`

use std::thread;

use sapwood::{Database, Durability, Isolation, Key, Keyspace, Result};

const JOBS: u64 = 400;
const WORKERS: usize = 4;

/// What was pushed, by number; and what somebody works on.
struct Queue {
    db: Database,
    waiting: Keyspace,
    claimed: Keyspace,
}

impl Queue {
    fn push(&self, number: u64, job: &str) -> Result<()> {
        self.waiting.put(number.to_be_bytes(), job)
    }

    /// Moves a job that waits to those that are claimed: in one commit, so that it is in one of
    /// them after a crash too. None when nothing waits.
    fn claim(&self, worker: usize, conflicts: &mut u32) -> Result<Option<Key>> {
        loop {
            // Snapshot isolation is enough: whoever deletes the same key first wins, and that is
            // all that must not happen twice.
            let mut transaction = self.db.begin(Isolation::Snapshot)?;
            // If all took the first one, one of them would get on at a time: so each takes another
            // of the first few, or the last that there is.
            let first_few = transaction.iter(&self.waiting)?.take(worker + 1);
            let Some(entry) = first_few.last() else { return Ok(None) };
            let (number, job) = entry?;
            transaction.delete(&self.waiting, &number)?;
            transaction.put(&self.claimed, &number, &job)?;
            match transaction.commit() {
                Ok(()) => return Ok(Some(number)),
                // Somebody else was faster: another job, then.
                Err(error) if error.is_conflict() => *conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn work(&self, worker: usize) -> Result<(u32, u32)> {
        let (mut done, mut conflicts) = (0, 0);
        while let Some(number) = self.claim(worker, &mut conflicts)? {
            // The work itself would be here. What a worker that died had claimed is still in
            // `claimed`: an application pushes it again at its next start.
            self.claimed.delete(&number)?;
            done += 1;
        }
        Ok((done, conflicts))
    }
}

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    // Jobs may wait for the disk a moment here. With `Sync`, the workers' commits share syncs.
    let builder = Database::builder().durability(Durability::Buffered);
    let db = builder.open(folder.path().join("queue.sapwood"))?;
    let (waiting, claimed) = (db.keyspace("waiting")?, db.keyspace("claimed")?);
    let queue = Queue { db, waiting, claimed };
    for number in 0..JOBS {
        queue.push(number, "paint the fence")?;
    }

    println!("{:<8} {:>8} {:>10}", "worker", "done", "conflicts");
    let mut sum = 0;
    thread::scope(|scope| {
        let queue = &queue;
        let start = |worker| scope.spawn(move || queue.work(worker));
        let workers: Vec<_> = (0..WORKERS).map(start).collect();
        for (index, worker) in workers.into_iter().enumerate() {
            let (done, conflicts) = worker.join().map_err(|_| "a worker panicked")??;
            println!("{index:<8} {done:>8} {conflicts:>10}");
            sum += u64::from(done);
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    assert_eq!(sum, JOBS, "each job was done once");
    println!("{:<8} {sum:>8}", "all");
    assert!(queue.claimed.first()?.is_none());
    queue.db.close()?;
    Ok(())
}
