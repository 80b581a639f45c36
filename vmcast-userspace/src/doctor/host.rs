//! Judges the host.

use super::{
    facts::{Engine, HostFacts, LookedUp, Running},
    finding::Finding,
};

/// What there is to say of sources that have relays of their own (RFC 8777).
pub(super) fn looked_up(sources: LookedUp) -> Vec<Finding> {
    let LookedUp { all, at_relays, unserved, unanswered } = sources;
    let mut findings = Vec::new();
    if all > 0 {
        findings.push(Finding::ok(format!(
            "of {all} sources that are looked up by DNS, {at_relays} come from relays of their own"
        )));
    }
    if unanswered > 0 {
        findings.push(
            Finding::warning(
                format!("no name server answers what the relays of {unanswered} sources are"),
                "the upstream is asked for them",
            )
            .mend("vmcast source list, then vmcast source discover ADDRESS --dns SERVER"),
        );
    }
    if unserved > 0 {
        findings.push(
            Finding::warning(
                format!("no relay in the records of {unserved} sources serves"),
                "the upstream is asked for them; relays that failed are left out for minutes",
            )
            .mend("vmcast source list"),
        );
    }
    findings
}

/// What there is to say of a clock that was set while the admin ran.
pub(super) fn clock(step: &str) -> Finding {
    Finding::warning(
        format!("the clock of this host was {step}, while its admin ran"),
        "leases do not go by it; certificates and tokens do, and are refused as expired, or as not valid yet, while it is \
         wrong",
    )
    .mend("timedatectl, or chronyc tracking: see that the clock is right and that NTP keeps it so")
}

pub(super) fn judge(facts: &HostFacts, engine: &Engine, running: Option<&Running>) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(format!("Linux {}", facts.kernel))];
    if let Some(running) = running {
        findings.push(Finding::ok(format!(
            "a daemon runs; its engine is {}: {}",
            running.engine, running.reason
        )));
    }
    findings.extend(running.into_iter().flat_map(|running| looked_up(running.sources)));
    if !facts.is_root {
        findings.push(
            Finding::error(
                "this user may not load BPF programs",
                "neither engine of the kernel can be tried out",
            )
            .mend("sudo vmcast doctor"),
        );
        return findings;
    }
    findings.push(if facts.btf {
        Finding::ok("BTF: the kernel describes its own types")
    } else {
        Finding::warning(
            "the kernel does not describe its own types (no /sys/kernel/btf/vmlinux)",
            "what devices refuse of the XDP engine's copies is not counted",
        )
        .mend("use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of the distributions are")
    });
    findings.push(match &facts.xdp {
        Ok(()) => Finding::ok("XDP engine: the kernel takes its programs and tables"),
        Err(error) if engine.is_only_xdp() => Finding::error(
            format!("XDP engine: {error}"),
            "the router does not start with dataplane.engine = \"xdp\"",
        )
        .mend("write engine = \"auto\" in [dataplane]"),
        Err(error) => {
            Finding::warning(format!("XDP engine: {error}"), "the next engine, which is slower, replicates")
        }
    });
    findings.push(match (&facts.tc, &facts.xdp) {
        (Ok(()), _) => Finding::ok("TC engine: the kernel takes its program and tables"),
        (Err(error), Ok(())) => Finding::warning(
            format!("TC engine: {error}"),
            "interfaces that XDP does not do for are served by the router's process, which is slower",
        ),
        (Err(error), Err(_)) => Finding::warning(
            format!("TC engine: {error}"),
            "the router's process replicates over packet sockets, at a small part of the rate",
        ),
    });
    findings.push(match &facts.shares {
        Ok(()) => Finding::ok("shares before the sockets: the kernel takes their filters"),
        Err(error) => Finding::warning(
            format!("shares before the sockets: {error}"),
            "a flood of AMT, IGMP or MLD with forged sources keeps others from being heard as well",
        ),
    });
    findings.push(if facts.batches {
        Finding::ok("tables are made many at a time")
    } else {
        Finding::warning(
            "the kernel stores one table at a time",
            "many joins of new streams at once take longer",
        )
    });
    match facts.tcx {
        Some(true) => findings.push(Finding::ok("TC programs are links of their own (tcx)")),
        Some(false) => {
            findings.push(Finding::ok("TC programs hang on a clsact qdisc (the kernel has no tcx)"))
        }
        None => {}
    }
    findings.push(if facts.tells_features {
        Finding::ok("drivers tell what they do at XDP")
    } else {
        Finding::warning(
            "drivers do not tell what they do at XDP",
            "whether frames redirected to an interface leave by it shows only when members get them",
        )
    });
    findings
}
