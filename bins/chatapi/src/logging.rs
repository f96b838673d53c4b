//! The log: JSON for machines in the form the guide shows, text for people.

use std::fmt::{Debug, Write as _};
use std::io::{IsTerminal, Write as _};
use std::panic;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Log;

/// Starts logging to standard output; what is still under way is written when the guard goes.
pub(crate) fn start(log: &Log) -> WorkerGuard {
    // A reader that hangs must not hang the server: then lines are dropped.
    let (writer, guard) = tracing_appender::non_blocking(std::io::stdout());
    let registry = tracing_subscriber::registry().with(log.filter.clone());
    if log.json {
        registry.with(Json { writer }).init();
    } else {
        let text = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
        registry.with(text).init();
    }
    panic::set_hook(Box::new(|info| {
        tracing::error!(place = info.location().map(ToString::to_string), "A task panicked");
    }));
    guard
}

/// Logs warnings and errors to standard error, for a command whose result goes to standard output.
pub(crate) fn start_for_command() {
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
    let text = text.with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(EnvFilter::new("warn")).with(text).init();
}

/// One JSON object a line: `level`, `msg`, the event's fields, those of its spans, `time`.
struct Json {
    writer: NonBlocking,
}

/// The fields of a span, ready to be put into each of its lines.
struct SpanFields(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Json {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.rest));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = String::with_capacity(256);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let _ = write!(line, "{{\"level\":\"{level}\",\"msg\":{}{}", quoted(&fields.message), fields.rest);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                line.push_str(fields);
            }
        }
        let target = event.metadata().target();
        let _ = writeln!(line, ",\"target\":{},\"time\":\"{}\"}}", quoted(target), now());
        let _ = self.writer.clone().write_all(line.as_bytes());
    }
}

fn now() -> chatapi_domain::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the edge")]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    chatapi_domain::Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(0))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Gathers the message and, as JSON, the other fields.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, json: &dyn std::fmt::Display) {
        let _ = write!(self.rest, ",{}:{json}", quoted(field.name()));
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, &quoted(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }
}
