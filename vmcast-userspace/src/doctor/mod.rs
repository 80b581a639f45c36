//! What this host has for each engine, and what stands in the way on its interfaces.
//!
//! [`gather`] asks the kernel; [`host`] and [`interface`] judge what it said, without I/O.

mod facts;
mod finding;
mod gather;
mod host;
mod interface;
mod neighbours;

#[cfg(test)]
mod tests;

pub(crate) use facts::{Asked, Engine, LookedUp, Running};
pub(crate) use finding::{Level, Report};

/// Examines this host and the interfaces that are asked about; `None` asks about all it has. Copies go to so many
/// neighbours at most. `step` says when and by how much the clock was set while the admin of this host ran.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub(crate) async fn examine(
    engine: &Engine,
    running: Option<&Running>,
    asked: Option<Vec<Asked>>,
    most_next_hops: u32,
    step: Option<String>,
) -> anyhow::Result<Report> {
    let mut findings = host::judge(&gather::host(), engine, running);
    findings.extend(step.map(|step| host::clock(&step)));
    let interfaces = gather::interfaces(asked, running).await?;
    let addresses = gather::addresses(&interfaces);
    let tables = neighbours::gather(&addresses);
    findings.extend(tables.iter().filter_map(|facts| neighbours::judge(facts, most_next_hops)));
    for facts in interfaces {
        findings.extend(interface::judge(&facts, engine));
    }
    Ok(Report::new(findings))
}
