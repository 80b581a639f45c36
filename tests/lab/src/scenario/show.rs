//! The live table, and the summary at the end.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use super::{hops::HopView, player::PlayerView, report::Report};
use crate::traffic::Carriage;

/// Everything that is shown at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) elapsed: Duration,
    pub(super) length: Option<Duration>,
    pub(super) engines: String,
    pub(super) hops: Vec<HopView>,
    pub(super) players: Vec<PlayerView>,
}

/// Shows views: a table that is drawn again in a terminal, a line each elsewhere.
#[derive(Debug)]
pub(super) struct Screen {
    redraws: bool,
    height: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { redraws: io::stdout().is_terminal(), height: 0 }
    }

    pub(super) fn show(&mut self, view: &View) {
        let text = if self.redraws { table(view) } else { line(view) };
        let mut out = io::stdout().lock();
        // Who has closed the terminal needs no table.
        if self.redraws && self.height > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.height);
        }
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.height = text.lines().count();
    }
}

fn megabits(bit_rate: f64) -> String {
    format!("{:.2}", bit_rate / 1e6)
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1e3))
}

fn table(view: &View) -> String {
    let mut text = String::new();
    let of = view.length.map_or(String::new(), |length| format!(" of {}", length.as_secs()));
    let mut row = |cells: std::fmt::Arguments<'_>| writeln!(text, "{cells}").expect("writing to a string");
    row(format_args!(""));
    row(format_args!("  {:.0}{of} s   {}   Ctrl-C ends", view.elapsed.as_secs_f64(), view.engines));
    row(format_args!(""));
    row(format_args!(
        "  {:<16}{:>10}{:>10}{:>7}{:>9}  carried as",
        "link", "packets", "Mbit/s", "lost", "loss %"
    ));
    for hop in &view.hops {
        let carriage = match hop.carriage {
            Carriage::Native => "IP multicast",
            Carriage::Amt => "AMT over unicast",
        };
        let rate = megabits(hop.bit_rate);
        let loss = format!("{:.2}", hop.loss * 100.0);
        row(format_args!(
            "  {:<16}{:>10}{rate:>10}{:>7}{loss:>9}  {carriage}",
            hop.name, hop.counts.packets, hop.lost
        ));
    }
    row(format_args!(""));
    row(format_args!(
        "  {:<12}{:<12}{:>10}{:>9}{:>7}{:>9}{:>10}{:>15}{:>8}",
        "client", "state", "packets", "Mbit/s", "lost", "loss %", "CC errors", "join→first ms", "stray"
    ));
    for player in &view.players {
        let PlayerView { name, state, packets, missing, continuity_errors, stray, .. } = player;
        let (rate, first) = (megabits(player.bit_rate), milliseconds(player.join_to_first));
        let loss = format!("{:.2}", player.loss * 100.0);
        row(format_args!(
            "  {name:<12}{state:<12}{packets:>10}{rate:>9}{missing:>7}{loss:>9}{continuity_errors:>10}{first:>15}{stray:>8}"
        ));
    }
    text
}

fn line(view: &View) -> String {
    let rates: Vec<_> = view.hops.iter().map(|hop| megabits(hop.bit_rate)).collect();
    let lost = view.hops.iter().map(|hop| hop.lost).max().unwrap_or_default();
    let mut text =
        format!("{:>4.0} s  {} Mbit/s, {lost} lost |", view.elapsed.as_secs_f64(), rates.join(" → "));
    for player in &view.players {
        let PlayerView { name, state, packets, missing, continuity_errors, .. } = player;
        write!(text, " {name}: {state}").expect("writing to a string");
        if *packets > 0 {
            let first = milliseconds(player.join_to_first);
            write!(
                text,
                " {packets} packets, {missing} lost, {continuity_errors} CC errors, first after {first} ms"
            )
            .expect("writing to a string");
        }
        text.push(';');
    }
    text.push('\n');
    text
}

/// The summary of a run.
pub(super) fn summary(report: &Report) -> String {
    let mut text = String::new();
    let mut row = |cells: std::fmt::Arguments<'_>| writeln!(text, "{cells}").expect("writing to a string");
    row(format_args!(""));
    row(format_args!("After {:.0} s:", report.seconds));
    for router in &report.routers {
        row(format_args!("  {} replicates by {}: {}", router.router, router.engine, router.reason));
    }
    for hop in &report.hops {
        row(format_args!("  {:<16}{:>9} packets, {} lost", hop.hop, hop.counts.packets, hop.lost));
    }
    for client in &report.clients {
        if client.sessions.is_empty() {
            row(format_args!("  {}: never joined, {} packets reached it", client.client, client.wire.stray));
        }
        for (session, number) in client.sessions.iter().zip(1..) {
            let first =
                session.join_to_first_ms.map_or("never".to_owned(), |time| format!("after {time:.1} ms"));
            row(format_args!(
                "  {} membership {number}: {:.1} s, first packet {first}, {} packets, {} lost, {} twice, {} out of order, \
                 {} continuity errors",
                client.client,
                session.left_s - session.joined_s,
                session.packets,
                session.judgement.missing(),
                session.judgement.duplicated,
                session.judgement.reordered,
                session.continuity_errors,
            ));
        }
    }
    for violation in &report.violations {
        row(format_args!("  WRONG {violation}"));
    }
    row(format_args!(
        "{}",
        if report.passed { "PASSED: every member got every packet, nobody else got one" } else { "FAILED" }
    ));
    text
}
