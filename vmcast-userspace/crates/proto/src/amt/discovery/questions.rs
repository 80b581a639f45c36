//! Questions to the DNS, and its answers.

use std::{net::IpAddr, time::Instant};

use super::{
    input::{Answer, Routes},
    machine::Discovery,
    output::{Output, Question},
    records::{Context, Named, Records},
    timer::{BELIEF, NEGATIVE, Timer},
};

/// A question that waits for its turn.
#[derive(Debug)]
pub(super) struct Queued {
    address: IpAddr,
    question: Question,
    /// For a name, what its record says.
    named: Option<Named>,
    since: Instant,
}

impl Discovery {
    /// Asks for the records of a source.
    pub(super) fn ask_for(&mut self, now: Instant, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&address) {
            source.asked = true;
            source.questions += 1;
            self.queue.push_back(Queued {
                address,
                question: Question::Relays(address),
                named: None,
                since: now,
            });
            self.ask_queued(now);
        }
    }

    /// Asks what may be asked by now (RFC 8777 §3.2.2).
    pub(super) fn ask_queued(&mut self, now: Instant) {
        while !self.queue.is_empty() {
            if !self.query_rate.admit(now) {
                if self.query_at.is_none() {
                    self.timers.set(&mut self.query_at, self.query_rate.next(), Timer::QueryRate);
                }
                return;
            }
            if let Some(Queued { address, question, named, since }) = self.queue.pop_front() {
                self.counters.delayed_queries += u64::from(since < now);
                let query = self.queries_so_far;
                self.queries_so_far += 1;
                self.counters.queries += 1;
                self.asked.insert(query, (address, named));
                self.outputs.push_back(Output::Query { query, question });
            }
        }
    }

    /// Wants to know nothing more of a source.
    pub(super) fn forget_questions(&mut self, address: IpAddr) {
        self.queue.retain(|queued| queued.address != address);
        self.asked.retain(|_, (of, _)| *of != address);
    }

    pub(super) fn on_answer(&mut self, now: Instant, query: u64, answer: Answer<'_>, routes: &dyn Routes) {
        let asked = self.asked.remove(&query);
        let Some((address, named)) = asked else {
            self.counters.late_answers += 1;
            return;
        };
        if let Some(source) = self.sources.get_mut(&address) {
            source.questions = source.questions.saturating_sub(1);
        }
        match named {
            None => self.on_relays(now, address, answer, routes),
            Some(named) => self.on_addresses(now, address, &named, answer, routes),
        }
        self.advance(now, address);
    }

    fn on_relays(&mut self, now: Instant, address: IpAddr, answer: Answer<'_>, routes: &dyn Routes) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        let (again, failed) = match answer {
            Answer::Records { ttl, .. } => (ttl.clamp(BELIEF.0, BELIEF.1), false),
            Answer::Nothing { ttl } => {
                self.counters.no_records += 1;
                (ttl.unwrap_or(NEGATIVE.0).clamp(BELIEF.0, NEGATIVE.1), false)
            }
            Answer::Failed | Answer::Addresses { .. } => {
                self.counters.failed_queries += 1;
                (source.failed(&mut self.random), true)
            }
        };
        source.dns_failed = failed;
        self.timers.set(&mut source.refresh_at, Some(now + again), Timer::Refresh(address));
        if failed {
            // What was known is believed until there is another answer.
            return;
        }
        source.failures = 0;
        let data = if let Answer::Records { data, .. } = answer { data } else { &[] };
        let mut context =
            Context { config: &self.config, counters: &mut self.counters, random: &mut self.random, routes };
        let (records, names) = Records::new(data, &mut context);
        source.records = records;
        // Of an answer before, names may still be open.
        self.asked.retain(|_, (of, _)| *of != address);
        self.queue.retain(|queued| queued.address != address);
        source.questions = 2 * names.len();
        for named in names {
            // That of IPv6 first (RFC 8305 §3).
            for question in [Question::V6(named.name.clone()), Question::V4(named.name.clone())] {
                let named = Some(named.clone());
                self.queue.push_back(Queued { address, question, named, since: now });
            }
        }
        self.ask_queued(now);
    }

    fn on_addresses(
        &mut self,
        now: Instant,
        address: IpAddr,
        named: &Named,
        answer: Answer<'_>,
        routes: &dyn Routes,
    ) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        match answer {
            Answer::Addresses { addresses, ttl } => {
                let Named { name, precedence, discovery_optional } = named;
                let mut context = Context {
                    config: &self.config,
                    counters: &mut self.counters,
                    random: &mut self.random,
                    routes,
                };
                for relay in addresses {
                    source.records.add(*relay, *precedence, *discovery_optional, Some(name), &mut context);
                }
                let expires = now + ttl.clamp(BELIEF.0, BELIEF.1);
                let at = source.refresh_at.map_or(expires, |at| at.min(expires));
                self.timers.set(&mut source.refresh_at, Some(at), Timer::Refresh(address));
            }
            // A name that has addresses of one version only is usual.
            Answer::Nothing { .. } => {}
            Answer::Failed | Answer::Records { .. } => self.counters.failed_queries += 1,
        }
    }

    /// What is known of a source has expired.
    pub(super) fn on_refresh(&mut self, now: Instant, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&address) {
            source.refresh_at = None;
            self.ask_for(now, address);
        }
    }
}
