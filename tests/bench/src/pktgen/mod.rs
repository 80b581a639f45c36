//! A rig of real interfaces: the kernel's packet generator sends into a router, and the copies that
//! come out of it are counted here.
//!
//! The router under test is another machine. One interface of this machine is cabled to the router's
//! input, one to its output.

mod config;
mod control;

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::net::if_::if_nametoindex;

use crate::{
    kernel::{layout::ALL_KEYS, sink::Sink},
    report::{CopyRow, Report},
    stats::Summary,
};

use config::Config;

/// Until the last copies have come through.
const SETTLE: Duration = Duration::from_millis(300);

/// What the rig is like.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// pktgen: the interface of this machine that is cabled to the router's input
    #[arg(long = "in", value_name = "INTERFACE")]
    input: Option<String>,
    /// pktgen: the interface of this machine that is cabled to the router's output
    #[arg(long = "out", value_name = "INTERFACE")]
    output: Option<String>,
    /// pktgen: source address of the streams, which the router has to accept on its input
    #[arg(long, default_value = "10.99.0.1", value_name = "ADDRESS")]
    source: std::net::Ipv4Addr,
    /// pktgen: the first group; the others follow
    #[arg(long, default_value = "232.1.0.0", value_name = "ADDRESS")]
    group: std::net::Ipv4Addr,
    /// pktgen: how many groups take turns
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    groups: u32,
    /// pktgen: bytes of UDP payload
    #[arg(long, default_value_t = 1316, value_parser = clap::value_parser!(u16).range(18..=1_472))]
    payload: u16,
    /// pktgen: packets per second; as many as the interface takes if it is not given
    #[arg(long, value_name = "PACKETS")]
    rate: Option<u64>,
    /// pktgen: seconds of a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// pktgen: members that the router has of each group; without it those are members who got a copy at all
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    members: Option<u32>,
    /// pktgen: cores that the router forwards with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cores: u32,
    /// pktgen: where its configuration is written to
    #[arg(long, default_value = "pktgen", value_name = "DIR")]
    scripts: PathBuf,
}

/// Rounds.
const ROUNDS: u64 = 5;

/// Writes the configuration, runs it, and puts a row into the report.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let (Some(input), Some(output)) = (&options.input, &options.output) else {
        bail!("pktgen needs the interfaces of the rig: --in and --out");
    };
    let config = Config {
        interface: input,
        source: options.source,
        group: options.group,
        groups: options.groups,
        payload: options.payload,
        rate: options.rate,
    };
    fs::create_dir_all(&options.scripts).with_context(|| format!("making {}", options.scripts.display()))?;
    let script = options.scripts.join("pktgen.sh");
    fs::write(&script, config.script(options.seconds))
        .with_context(|| format!("writing {}", script.display()))?;
    eprintln!("pktgen's configuration is in {}", script.display());
    control::require()?;

    let output_index = if_nametoindex(output.as_str()).with_context(|| format!("looking for {output}"))?;
    if_nametoindex(input.as_str()).with_context(|| format!("looking for {input}"))?;
    let mut sink = Sink::load()?;
    sink.attach([output_index]).with_context(|| format!("{output} has to take native XDP"))?;
    control::write(&config)?;
    let rounds: Vec<Round> = (0..ROUNDS).map(|_| round(&config, options, &sink)).collect::<Result<_>>()?;
    report.rows.push(row(options, &rounds)?);
    let (members, seen) = (options.members, seen(&rounds));
    report.remarks.push(match members {
        Some(members) => format!("pktgen: copies came for {seen} of {members} members"),
        None => format!(
            "pktgen: copies came for {seen} members, and those who got none are not known of: --members says how many \
             there are"
        ),
    });
    report.remarks.push(
        "pktgen: copies are counted by member, not looked at: that each is of another packet is not checked"
            .to_owned(),
    );
    report.remarks.push(format!(
        "pktgen: {input} → router → {output}; {} packets went in each second on average",
        rounds.iter().map(|round| round.packets).sum::<u64>() / (ROUNDS * options.seconds)
    ));
    Ok(())
}

struct Round {
    packets: u64,
    /// Copies by receiver.
    copies: Vec<u64>,
}

fn round(config: &Config<'_>, options: &Options, sink: &Sink) -> Result<Round> {
    vmcast_lab::signals::check()?;
    let before = sink.counts(0..ALL_KEYS)?;
    let packets = control::run(config, Duration::from_secs(options.seconds))?;
    thread::sleep(SETTLE);
    let after = sink.counts(0..ALL_KEYS)?;
    let copies = after.iter().zip(&before).map(|(after, before)| after.copies - before.copies);
    let copies: Vec<u64> = copies.filter(|copies| *copies > 0).collect();
    ensure!(
        !copies.is_empty(),
        "{packets} packets went in, but no copy came out: does the router have members?"
    );
    Ok(Round { packets, copies })
}

/// Members who got a copy.
fn seen(rounds: &[Round]) -> usize {
    rounds.iter().map(|round| round.copies.len()).max().unwrap_or_default()
}

fn row(options: &Options, rounds: &[Round]) -> Result<CopyRow> {
    let members = options.members.map_or_else(|| seen(rounds), |members| members as usize);
    let delivered =
        |round: &Round| round.copies.iter().map(|copies| (*copies).min(round.packets)).sum::<u64>();
    let core_seconds = options.seconds as f64 * f64::from(options.cores);
    let rates: Vec<f64> = rounds.iter().map(|round| delivered(round) as f64 / 1e6 / core_seconds).collect();
    let rate = Summary::of(&rates).context("no round was measured")?;
    Ok(CopyRow {
        engine: Some("router on the rig"),
        peer: None,
        output: "as configured",
        fan_out: "unicast",
        members,
        groups: options.groups as usize,
        payload: usize::from(options.payload),
        burst: 0,
        devices: 1,
        mcopies_per_s_core: rate.median,
        least: rate.least,
        most: rate.most,
        rounds: rate.count,
        ns_per_copy: 1e3 / rate.median,
        delivered: rounds.iter().map(delivered).sum(),
        expected: rounds.iter().map(|round| round.packets * members as u64).sum(),
        checked: 0,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn members_who_got_nothing_are_expected_if_they_are_known_of() {
        let rounds = [Round { packets: 10, copies: vec![10, 12] }, Round { packets: 10, copies: vec![9] }];
        let row_with = |words: &[&str]| {
            let words = ["bench"].iter().chain(words);
            row(&Arguments::try_parse_from(words).expect("options").options, &rounds).expect("a row")
        };
        let known = row_with(&["--members", "3"]);
        assert_eq!((known.members, known.delivered, known.expected), (3, 29, 60));
        let unknown = row_with(&[]);
        assert_eq!((unknown.members, unknown.delivered, unknown.expected), (2, 29, 40));
    }
}
