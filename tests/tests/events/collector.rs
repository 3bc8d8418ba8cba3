//! A subscriber that keeps every event.

use std::collections::BTreeMap;
use std::fmt::Debug;

use sapwood::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span;

/// One event, its fields as text.
#[derive(Clone, Debug)]
pub struct Event {
    pub target: String,
    pub level: tracing::Level,
    pub message: String,
    pub fields: BTreeMap<String, String>,
    /// The name of the thread that told it.
    pub thread: String,
}

impl Event {
    /// A field that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.fields[name].parse().unwrap_or_else(|error| panic!("{name} of {self:?}: {error}"))
    }
}

impl Visit for Event {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => {
                self.fields.insert(name.to_owned(), text);
            }
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Collector {
    pub events: Arc<Mutex<Vec<Event>>>,
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("sapwood")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut kept = Event {
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            message: String::new(),
            fields: BTreeMap::new(),
            thread: std::thread::current().name().unwrap_or_default().to_owned(),
        };
        event.record(&mut kept);
        self.events.lock().push(kept);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
