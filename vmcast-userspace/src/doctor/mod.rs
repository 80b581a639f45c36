//! What this host has for each engine, and what stands in the way on its interfaces.
//!
//! [`gather`] asks the kernel; [`host`] and [`interface`] judge what it said, without I/O.

mod facts;
mod finding;
mod gather;
mod host;
mod interface;

#[cfg(test)]
mod tests;

pub(crate) use facts::{Asked, Engine, LookedUp, Running};
pub(crate) use finding::{Level, Report};

/// Examines this host and the interfaces that are asked about; `None` asks about all it has.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub(crate) async fn examine(
    engine: &Engine,
    running: Option<&Running>,
    asked: Option<Vec<Asked>>,
) -> anyhow::Result<Report> {
    let mut findings = host::judge(&gather::host(), engine, running);
    for facts in gather::interfaces(asked, running).await? {
        findings.extend(interface::judge(&facts, engine));
    }
    Ok(Report::new(findings))
}
