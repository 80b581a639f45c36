//! The first questions of a querier, to hosts of whom nothing is known: who is silent until they are answered may still be
//! there.

use std::time::Instant;

use super::config::{Config, Variables};

/// The first questions to hosts of whom nothing is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Startup {
    /// When hosts were first asked.
    began: Instant,
    /// From then on every host has had its chance to say what it is in.
    answered: Instant,
}

impl Startup {
    /// Every query of the startup is sent, and the hosts have had time to answer it (RFC 9776 §8.6, §8.7, RFC 9777 §9.6,
    /// §9.7): the Query Response Interval, and as much again for what delays an answer, as the Group Membership Interval
    /// has it (RFC 9776 §8.4, RFC 9777 §9.4).
    pub(super) fn new(now: Instant, config: &Config) -> Self {
        let asked = config.startup_query_interval() * u32::from(config.startup_query_count() - 1);
        Self { began: now, answered: now + asked + config.query_response_interval * 2 }
    }

    /// Another router asks in our place, with these variables in force: who is not heard within the Group Membership
    /// Interval, by its times or by ours, is in nothing (RFC 9776 §8.4, RFC 9777 §9.4).
    pub(super) fn cut_short(&mut self, now: Instant, config: &Config, variables: &Variables) {
        if !self.is_answered(now) {
            let own = Variables::own(config).group_membership_interval();
            let reported = self.began + own.max(variables.group_membership_interval());
            self.answered = self.answered.max(reported);
        }
    }

    /// Whether every host has had its chance.
    pub(super) fn is_answered(&self, now: Instant) -> bool {
        now >= self.answered
    }
}
