//! The application's own code inside calls: it closes the database, drops the last handle, uses the
//! database, or panics.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use sapwood::sync::thread;
use sapwood::{Database, Error, Isolation, Keyspace, Result};

use crate::{Bed, assert_closed, check_content};

/// What hangs has failed: far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs what might never end.
pub fn within_patience<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let runner = thread::spawn("runner", move || {
        let _ = sender.send(run());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(result) => {
            runner.unwrap().join().unwrap();
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        // It panicked: so does the join.
        Err(mpsc::RecvTimeoutError::Disconnected) => match runner.unwrap().join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it has sent nothing"),
        },
    }
}

/// A reader that calls something once, when it has given something already.
struct Calling<F> {
    left: usize,
    call: Option<F>,
}

impl<F: FnOnce()> Read for Calling<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left < 200_000
            && let Some(call) = self.call.take()
        {
            call();
        }
        let length = buffer.len().min(self.left).min(30_000);
        buffer[..length].fill(7);
        self.left -= length;
        Ok(length)
    }
}

/// Keys that are there, and a call before the second one.
fn keys_calling(call: Callback<'_>) -> impl Iterator<Item = String> {
    (0..3).map(|number| {
        if number == 1 {
            call();
        }
        format!("{number:03}")
    })
}

type Callback<'a> = &'a mut (dyn FnMut() + Send);
type Run = fn(Option<Database>, &Keyspace, Callback<'_>) -> Result<()>;

/// Calls from whose inside the application is called, each with how it is made. A call of the
/// database's own borrows a handle, so that the last one can go inside calls of a keyspace only:
/// these get none.
const PLACES: [(&str, bool, Run); 13] = [
    ("update", false, |_, keyspace, call| {
        let change = |old: Option<&[u8]>| {
            call();
            old.map(<[u8]>::to_vec)
        };
        keyspace.update("000", change).map(drop)
    }),
    ("Keyspace::put_stream", false, |_, keyspace, call| {
        keyspace.put_stream("stream", Calling { left: 400_000, call: Some(call) }).map(drop)
    }),
    ("Keyspace::compact", false, |_, keyspace, call| {
        keyspace.compact::<&str>(.., &mut |_: u64, _: u64| {
            call();
            true
        })
    }),
    ("Keyspace::get_many", false, |_, keyspace, call| {
        keyspace.get_many(keys_calling(call)).map(drop)
    }),
    ("Snapshot::get_many", true, |database, keyspace, call| {
        database.unwrap().snapshot()?.get_many(keyspace, keys_calling(call)).map(drop)
    }),
    ("Transaction::get_many", true, |database, keyspace, call| {
        let transaction = database.unwrap().begin(Isolation::Serializable)?;
        transaction.get_many(keyspace, keys_calling(call)).map(drop)
    }),
    ("transact", true, |database, keyspace, call| {
        database.unwrap().transact(|transaction| {
            transaction.put(keyspace, "own", "v")?;
            call();
            transaction.put(keyspace, "own too", "v")
        })
    }),
    ("Transaction::put_stream", true, |database, keyspace, call| {
        let mut transaction = database.unwrap().begin(Isolation::Snapshot)?;
        transaction.put_stream(keyspace, "stream", Calling { left: 400_000, call: Some(call) })?;
        transaction.commit()
    }),
    ("Database::compact_with", true, |database, _, call| {
        database.unwrap().compact_with(&mut |_: u64, _: u64| {
            call();
            true
        })
    }),
    ("the end of Database::compact_with", true, |database, _, call| {
        // Its last part waits until all is merged, and reports too.
        let database = database.unwrap();
        let core = database.core().unwrap();
        let is_last_part = || core.background.drain.load(Ordering::SeqCst) > 0;
        database.compact_with(&mut |_: u64, _: u64| {
            if is_last_part() {
                call();
            }
            true
        })
    }),
    ("compact_to", true, |database, _, call| {
        let folder = tempfile::tempdir().unwrap();
        let copied = catch_unwind(AssertUnwindSafe(|| {
            database.unwrap().compact_to(folder.path().join("copy"), &mut |_: u64, _: u64| {
                call();
                true
            })
        }));
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        match copied {
            Ok(Ok(())) => assert_eq!(names, 1),
            Ok(Err(error)) => {
                assert_eq!(names, 0, "a copy that failed is left: {error}");
                return Err(error);
            }
            Err(panic) => {
                assert_eq!(names, 0, "a copy that panicked is left");
                std::panic::resume_unwind(panic);
            }
        }
        Ok(())
    }),
    ("verify", true, |database, _, call| {
        let mut progress = |_: u64, _: u64| {
            call();
            true
        };
        database.unwrap().verify(&mut progress).map(drop)
    }),
    ("a snapshot's iterator", true, |database, keyspace, call| {
        let snapshot = database.unwrap().snapshot()?;
        for (index, pair) in snapshot.iter(keyspace)?.enumerate() {
            pair?;
            if index == 10 {
                call();
            }
        }
        Ok(())
    }),
];

#[test]
fn a_close_or_the_last_drop_inside_any_callback_ends_the_call_with_closed() {
    for (name, takes_database, run) in PLACES {
        for by_drop in [false, true] {
            let (bed, result) = within_patience(move || {
                let (bed, database, keyspace) = Bed::new();
                let given = takes_database.then(|| database.clone());
                let mut inside = Some(database);
                let mut called = 0;
                let mut call = || {
                    called += 1;
                    if let Some(database) = inside.take() {
                        match by_drop && !takes_database {
                            true => drop(database),
                            false => database.close().unwrap(),
                        }
                    }
                    let error = keyspace.get("000").unwrap_err();
                    assert_closed("from inside", &error);
                };
                let result = run(given, &keyspace, &mut call);
                assert_eq!(called, 1, "{name}: nobody is called after the close");
                (bed, result)
            });
            assert_closed(name, &result.unwrap_err());
            bed.check_closed();
        }
    }
}

/// A call inside a call, while a third one waits to close.
#[test]
fn a_callback_may_use_the_database_while_another_thread_closes_it() {
    for (name, takes_database, run) in PLACES {
        let bed = within_patience(move || {
            let (bed, database, keyspace) = Bed::new();
            let given = takes_database.then(|| database.clone());
            let mut inside = Some(database);
            let mut closer = None;
            let mut call = || {
                if let Some(database) = inside.take() {
                    let close = move || database.close().unwrap();
                    closer = Some(thread::spawn("closer", close).unwrap());
                }
                // Until the close has come through.
                loop {
                    match keyspace.put("from inside", "v") {
                        Ok(()) => std::thread::yield_now(),
                        Err(error) => break assert_closed("from inside", &error),
                    }
                }
            };
            let result = run(given, &keyspace, &mut call);
            assert_closed(name, &result.unwrap_err());
            closer.unwrap().join().unwrap();
            bed
        });
        bed.check_closed();
    }
}

#[test]
fn every_callback_may_read_and_write_and_flush() {
    for (name, takes_database, run) in PLACES {
        within_patience(move || {
            let (bed, database, keyspace) = Bed::new();
            let inner = database.clone();
            let calls = keyspace.clone();
            let mut called = 0;
            let mut call = || {
                called += 1;
                if called == 1 {
                    check_content(&inner);
                    calls.put("from inside", "v").unwrap();
                    inner.flush().unwrap();
                    inner.keyspace("made inside").unwrap().put("k", "v").unwrap();
                    inner.verify(&mut ()).unwrap();
                }
            };
            let result = run(takes_database.then(|| database.clone()), &keyspace, &mut call);
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(called > 0, "{name}");
            assert!(keyspace.contains("from inside").unwrap());
            drop(inner);
            bed.check(database);
        });
    }
}

#[test]
fn a_panic_in_any_callback_passes_through_and_leaves_the_database_at_work() {
    for (name, takes_database, run) in PLACES {
        within_patience(move || {
            let (bed, database, keyspace) = Bed::new();
            let given = takes_database.then(|| database.clone());
            let before = crash_lsm::access::dump(&database).unwrap();
            let result = catch_unwind(AssertUnwindSafe(|| {
                run(given, &keyspace, &mut || std::panic::panic_any("on purpose"))
            }));
            let panic = result.expect_err(name);
            assert_eq!(panic.downcast_ref(), Some(&"on purpose"), "{name}");
            let after = crash_lsm::access::dump(&database).unwrap();
            assert_eq!(after.difference(&before), None, "{name}");
            let background = database.core().unwrap();
            let waiting = background.background.drain.load(Ordering::SeqCst);
            assert_eq!(waiting, 0, "{name}: nobody waits for merges any more");
            drop(background);
            // The same call once more, and all else.
            let again = run(takes_database.then(|| database.clone()), &keyspace, &mut || ());
            again.unwrap_or_else(|error| panic!("{name}: {error}"));
            keyspace.put("afterwards", "v").unwrap();
            database.compact().unwrap();
            bed.check(database);
        });
    }
}

/// Inside a transaction's closure another one is a second one, and its error is its own.
#[test]
fn an_error_from_inside_rolls_back_and_comes_out_as_it_is() {
    let (bed, database, keyspace) = Bed::new();
    let result: Result<()> = database.transact(|transaction| {
        transaction.put(&keyspace, "000", "changed")?;
        Err(Error::InvalidRange)
    });
    assert!(matches!(result, Err(Error::InvalidRange)));
    assert_eq!(keyspace.get("000").unwrap().unwrap().len(), 100);
    let failing = Calling { left: 100_000, call: Some(|| ()) }.chain(Failing);
    let error = keyspace.put_stream("stream", failing).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("the reader that was given"), "{error}");
    assert!(error.to_string().contains("out of paper"), "{error}");
    bed.check(database);
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("out of paper"))
    }
}
