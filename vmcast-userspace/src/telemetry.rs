//! The log: set up once, to standard error.

use std::{
    env,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Libraries that tell more than an operator can use, and the most they may tell.
const QUIET: [&str; 6] =
    ["h2=info", "hyper_util=info", "tower=info", "tonic=info", "netlink_proto=info", "rtnetlink=info"];

/// Sets up the log as configured.
///
/// The level is the configured one, else what `RUST_LOG` says, else info.
///
/// # Errors
/// If `RUST_LOG` is needed and not understood, or the log was set up before.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(filter(config.level, env::var("RUST_LOG").ok())?);
    match config.format {
        LogFormat::Text => {
            let coloured =
                io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            registry
                .with(tracing_subscriber::fmt::layer().with_ansi(coloured).with_writer(io::stderr))
                .try_init()?;
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(layer).try_init()?;
        }
    }
    Ok(())
}

fn filter(level: Option<LogLevel>, environment: Option<String>) -> anyhow::Result<EnvFilter> {
    let level = match (level, environment.filter(|directives| !directives.is_empty())) {
        (Some(LogLevel::Error), _) => "error",
        (Some(LogLevel::Warn), _) => "warn",
        (Some(LogLevel::Debug), _) => "debug",
        (Some(LogLevel::Trace), _) => "trace",
        (Some(LogLevel::Info), _) | (None, None) => "info",
        (None, Some(directives)) => {
            return EnvFilter::try_new(&directives)
                .map_err(|error| anyhow::anyhow!("RUST_LOG=\"{directives}\" is not understood: {error}"));
        }
    };
    let quiet = if matches!(level, "debug" | "trace") { QUIET.join(",") } else { String::new() };
    Ok(EnvFilter::try_new(format!("{level},{quiet}"))?)
}

/// Keeps lines of the log that a peer can provoke from flooding it.
///
/// ```
/// # let now = vmcast::clock::now();
/// let mut limit = vmcast::telemetry::RateLimit::new(5, std::time::Duration::from_secs(10));
/// if let Some(held_back) = limit.admit(now) {
///     tracing::warn!(held_back, "wrong Response MAC");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    left: u32,
    renewed: Option<Instant>,
    held_back: u64,
}

impl RateLimit {
    /// Admits `burst` lines in each `interval`.
    #[must_use]
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, left: burst, renewed: None, held_back: 0 }
    }

    /// Whether a line may be written now; if so, how many were held back since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.renewed.is_none_or(|renewed| now.saturating_duration_since(renewed) >= self.interval) {
            self.renewed = Some(now);
            self.left = self.burst;
        }
        if self.left == 0 {
            self.held_back += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// The lines that are logged meanwhile, for tests of what an operator is told.
#[cfg(test)]
pub(crate) fn lines(tell: impl FnOnce()) -> Vec<String> {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, tell);
    let text = log.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn lines_beyond_the_burst_are_held_back_and_counted() {
        let start = clock::now();
        let mut limit = RateLimit::new(2, Duration::from_secs(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([limit.admit(at(0)), limit.admit(at(1)), limit.admit(at(2))], [Some(0), Some(0), None]);
        assert_eq!([limit.admit(at(9)), limit.admit(at(10)), limit.admit(at(11))], [None, Some(2), Some(0)]);
        assert_eq!(limit.admit(at(12)), None);
    }

    #[test]
    fn a_level_given_goes_before_the_environment_and_info_is_the_rest() {
        let shown = |level, environment: Option<&str>| {
            filter(level, environment.map(str::to_owned)).map(|filter| filter.to_string())
        };
        assert_eq!(shown(Some(LogLevel::Warn), Some("trace")).unwrap(), "warn");
        assert_eq!(shown(None, Some("vmcast=trace")).unwrap(), "vmcast=trace");
        assert_eq!(shown(None, Some("")).unwrap(), "info");
        assert_eq!(shown(None, None).unwrap(), "info");
        assert!(shown(Some(LogLevel::Debug), None).unwrap().contains("h2=info"));
        assert!(shown(None, Some("a=b=c")).unwrap_err().to_string().contains("RUST_LOG=\"a=b=c\""));
    }
}
