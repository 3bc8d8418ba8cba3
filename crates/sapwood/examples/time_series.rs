//! Measurements by sensor and time: written as they come, read by range, and the old ones dropped
//! by range.
//!
//! `cargo run -p sapwood --example time_series`

use sapwood::{Database, Durability};

const SENSORS: u16 = 10;
const DAYS: u64 = 30;
const DAY: u64 = 24 * 60 * 60;
/// One measurement of each sensor every ten minutes.
const INTERVAL: u64 = 600;
const PER_DAY: u64 = DAY / INTERVAL;
const DAYS_KEPT: u64 = 7;

/// Numbers in keys are big-endian, so that bytes order as the numbers do; the sensor comes first,
/// so that one sensor's measurements lie side by side.
fn key(sensor: u16, second: u64) -> Vec<u8> {
    [&sensor.to_be_bytes()[..], &second.to_be_bytes()[..]].concat()
}

fn temperature(sensor: u16, second: u64) -> f64 {
    let hour = (second % DAY) as f64 / 3600.0;
    20.0 + f64::from(sensor) + 5.0 * ((hour - 9.0) * std::f64::consts::PI / 12.0).sin()
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let db = Database::open(folder.path().join("weather.sapwood"))?;
    let weather = db.keyspace("weather")?;

    // A batch is one commit. A power cut may take the last second here: measurements go on.
    for day in 0..DAYS {
        let mut batch = db.batch();
        for second in (day * DAY..(day + 1) * DAY).step_by(INTERVAL as usize) {
            for sensor in 0..SENSORS {
                let value = temperature(sensor, second).to_le_bytes();
                batch.put(&weather, key(sensor, second), value)?;
            }
        }
        batch.commit_with(Durability::Buffered)?;
    }
    let measurements = weather.count::<&[u8]>(..)?;
    println!("{:<28} {measurements:>8}", "measurements");
    assert_eq!(measurements, u64::from(SENSORS) * DAYS * PER_DAY, "none was lost");

    // One sensor's day is one range, whatever else there is.
    let (mut count, mut sum) = (0_u64, 0.0);
    for entry in weather.range(key(3, 7 * DAY)..key(3, 8 * DAY))? {
        let (_, value) = entry?;
        sum += f64::from_le_bytes(value[..].try_into()?);
        count += 1;
    }
    let mean = sum / count as f64;
    println!("{:<28} {count:>8}", "sensor 3, day 7");
    println!("{:<28} {mean:>8.2}", "their mean");
    assert_eq!(count, PER_DAY, "the day, and nothing beside it");
    // Over a whole day what comes and goes is nothing.
    assert!((mean - 23.0).abs() < 1e-6, "they are sensor 3's");

    // The newest measurement is the last key below the next sensor's first.
    let newest = weather.range(key(3, 0)..key(4, 0))?.next_back().ok_or("it was put above")??;
    let second = u64::from_be_bytes(newest.0[2..].try_into()?);
    println!("{:<28} {:>8}", "newest of sensor 3, minute", second / 60);
    assert_eq!(second, DAYS * DAY - INTERVAL, "the last that was written");

    // To keep a week: one range for each sensor. It costs the same however much it deletes, and
    // merges give the space back.
    let mut batch = db.batch();
    for sensor in 0..SENSORS {
        batch.delete_range(&weather, key(sensor, 0)..key(sensor, (DAYS - DAYS_KEPT) * DAY))?;
    }
    batch.commit()?;
    let left = weather.count::<&[u8]>(..)?;
    println!("{:<28} {left:>8}", "left of a week");
    assert_eq!(left, u64::from(SENSORS) * DAYS_KEPT * PER_DAY, "the last week, and no day more");
    let oldest = weather.first()?.ok_or("a week is left")?;
    assert_eq!(*oldest.0, key(0, (DAYS - DAYS_KEPT) * DAY)[..], "the week begins where it should");
    db.wait_until_idle()?;
    assert_eq!(weather.count::<&[u8]>(..)?, left, "merging changes nothing");
    let stats = db.stats()?;
    println!("{:<28} {:>8} KiB", "bytes in use", (stats.file_bytes - stats.free_bytes) >> 10);
    db.close()?;
    Ok(())
}
