//! Transfers between accounts from several threads: none is lost, no money appears.
//!
//! `cargo run -p sapwood --example transactions`

use std::thread;

use sapwood::{Database, Isolation, Keyspace, Transaction};

const ACCOUNTS: u64 = 4;
const THREADS: u64 = 4;
const TRANSFERS: u64 = 25;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::builder().open_in_memory()?;
    let accounts = db.keyspace("accounts")?;
    for account in 0..ACCOUNTS {
        accounts.put(account.to_be_bytes(), 100_u64.to_be_bytes())?;
    }

    // `transact` begins, runs and commits. When another commit came between, it does so again, up
    // to 16 times: so what it runs should have no other effect.
    thread::scope(|scope| {
        let work = |thread: u64| {
            let (db, accounts) = (&db, &accounts);
            move || -> sapwood::Result<u32> {
                let mut attempts = 0;
                for transfer in 0..TRANSFERS {
                    let from = (thread + transfer) % ACCOUNTS;
                    db.transact(|transaction| {
                        attempts += 1;
                        transfer_one(transaction, accounts, from, (from + 1) % ACCOUNTS)
                    })?;
                }
                Ok(attempts)
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(work(thread))).collect();
        for thread in threads {
            let attempts = thread.join().map_err(|_| "a thread panicked")??;
            println!("{TRANSFERS} transfers took {attempts} attempts");
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;

    // By hand: begin, read, write, commit. Here somebody comes between.
    let mut transaction = db.begin(Isolation::Serializable)?;
    let before = balance(&transaction, &accounts, 0)?;
    transaction.put(&accounts, 1_u64.to_be_bytes(), before.to_be_bytes())?;
    accounts.put(0_u64.to_be_bytes(), before.to_be_bytes())?;
    match transaction.commit() {
        Err(error) if error.is_conflict() => println!("conflict: {error}"),
        Err(error) => return Err(error.into()),
        Ok(()) => return Err("what it had read was changed".into()),
    }

    let mut sum = 0;
    for entry in accounts.iter()? {
        sum += number(&entry?.1);
    }
    println!("sum of all accounts: {sum}");
    assert_eq!(sum, ACCOUNTS * 100);
    db.close()?;
    Ok(())
}

fn transfer_one(
    transaction: &mut Transaction,
    accounts: &Keyspace,
    from: u64,
    to: u64,
) -> sapwood::Result<()> {
    let have = balance(transaction, accounts, from)?;
    // An account that is empty gives nothing; the commit still stands for what was read.
    let amount = have.min(1);
    let other = balance(transaction, accounts, to)?;
    transaction.put(accounts, from.to_be_bytes(), (have - amount).to_be_bytes())?;
    transaction.put(accounts, to.to_be_bytes(), (other + amount).to_be_bytes())
}

fn balance(transaction: &Transaction, accounts: &Keyspace, account: u64) -> sapwood::Result<u64> {
    Ok(transaction.get(accounts, account.to_be_bytes())?.map_or(0, |value| number(&value)))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
