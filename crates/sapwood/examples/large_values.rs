//! Values far larger than memory should hold: in and out as streams.
//!
//! `cargo run -p sapwood --example large_values`

use std::io::{self, Read, Seek, SeekFrom};

use sapwood::{Database, Error};

const FILM_BYTES: u64 = 20 << 20;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("films.sapwood");
    // The least memory that a database takes: the film is five times as large.
    let db = Database::builder().memory_budget(4 << 20).open(&path)?;
    let films = db.keyspace("films")?;

    // Any reader will do: a file, a socket, a decoder. The value is written as it comes, and
    // becomes visible whole, when the call returns. (Here is a reader that makes up its bytes.)
    let length = films.put_stream("metropolis", Frames { at: 0 }.take(FILM_BYTES))?;
    println!("{:<24} {:>12} bytes", "put", length);
    assert_eq!(length, FILM_BYTES, "all of it was put");

    // What does not fit into memory is not handed out whole by accident.
    match films.get("metropolis") {
        Err(Error::ValueTooLarge { limit, .. }) => {
            println!("{:<24} {limit:>12} bytes", "get gives up to");
        }
        other => return Err(format!("{other:?}").into()),
    }

    // A stream sees the value of the moment at which it was made, also when it is overwritten.
    let mut film = films.get_stream("metropolis")?.ok_or("it was put just now")?;
    films.put("metropolis", "lost")?;
    println!("{:<24} {:>12} bytes", "the stream still has", film.len());
    assert_eq!(films.get("metropolis")?.ok_or("it was overwritten")?, "lost");

    // It seeks without reading what lies between.
    film.seek(SeekFrom::Start(FILM_BYTES / 2))?;
    let mut frame = [0; 8];
    film.read_exact(&mut frame)?;
    println!("{:<24} {:>12}", "the number at its middle", u64::from_be_bytes(frame));
    assert_eq!(u64::from_be_bytes(frame), FILM_BYTES / 2 / 8, "the frame that was asked for");

    // To copy it out, the pieces that `io::copy` takes are enough.
    film.seek(SeekFrom::Start(0))?;
    let copied = io::copy(&mut film, &mut io::sink())?;
    println!("{:<24} {copied:>12} bytes", "copied out");
    assert_eq!(copied, FILM_BYTES, "the value of the moment, whole");

    // With others in one transaction: all of it is visible at once, or nothing.
    let titles = db.keyspace("titles")?;
    db.transact(|transaction| {
        transaction.put(&titles, "2", "Nosferatu")?;
        transaction.put_stream(&films, "nosferatu", Frames { at: 7 }.take(1 << 20))
    })?;
    assert_eq!(titles.count("2"..)?, 1, "the title came with it");
    assert_eq!(films.get_stream("nosferatu")?.map(|film| film.len()), Some(1 << 20));

    // The space of the old film is free when the last stream that reads it is gone, and the file
    // gets shorter when writes pause.
    let file_bytes_before = db.stats()?.file_bytes;
    drop(film);
    db.wait_until_idle()?;
    db.close()?;
    let file_bytes = std::fs::metadata(&path)?.len();
    println!("{:<24} {file_bytes:>12} bytes", "the file");
    assert!(file_bytes < file_bytes_before / 2, "the old film's space was given back");
    Ok(())
}

/// Numbers, each eight bytes long, that count up.
struct Frames {
    at: u64,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for piece in buffer.chunks_exact_mut(8) {
            piece.copy_from_slice(&self.at.to_be_bytes());
            self.at += 1;
            count += 8;
        }
        Ok(count)
    }
}
