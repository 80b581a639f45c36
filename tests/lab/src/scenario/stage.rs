//! The main topology with all roles of vmcast in it and the source at work.

use std::{net::Ipv4Addr, path::Path, thread, time::Duration};

use crate::{
    Lab, LabError, Process,
    clock::Clock,
    netns::stop_all,
    roles::{Engine, Launcher, Role, RouterConfig, RouterInterface, wait_ready},
    signals,
    topology::{MainTopology, address},
    traffic::{GroupPort, MpegTsSource, Recorder, SourceConfig},
};

/// The stream of the main job.
pub const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 0, 1), port: 5004 };

/// Its rate in bits per second of transport stream.
pub const BIT_RATE: u32 = 8_000_000;

/// How long ffmpeg may take until its first packet.
const SOURCE_STARTS: Duration = Duration::from_secs(15);

/// Everything of the main job but the players.
#[derive(Debug)]
pub struct Stage {
    /// VMR 1, admin, VMR 2, then the agents.
    roles: Vec<Role>,
    source: Option<Process>,
    /// What the source sent.
    pub recorder: Recorder,
    /// The network.
    pub topology: MainTopology,
    /// The clock of everything that is recorded here.
    pub clock: Clock,
    /// The lab itself; last, so that it outlives what is in it.
    pub lab: Lab,
}

const VMR1: usize = 1;
const VMR2: usize = 2;

impl Stage {
    /// Builds the network, starts every role and the source, and waits until streams can be joined.
    ///
    /// # Errors
    /// Without root, if a role or the source does not come up, or if a signal asks to stop.
    pub fn build(
        name: &str,
        program: &Path,
        engine: Engine,
        mut say: impl FnMut(&str),
    ) -> Result<Self, LabError> {
        let clock = Clock::start();
        say(
            "building the network: 12 namespaces, 11 cables, 2 switches, 2 backbone routers that know unicast only",
        );
        let mut lab = Lab::new(name)?;
        let topology = MainTopology::build(&mut lab)?;
        signals::check()?;

        say("starting vmcast: the admin, then 2 VMRs, which register with it");
        let launcher = Launcher::new(&lab, program)?;
        let router = |rank, tunnel, interfaces: &[RouterInterface<'_>], node| {
            launcher.router(node, RouterConfig { rank, tunnel, admin: address::ADMIN, engine, interfaces })
        };
        let interface = |name, accepts_sources| RouterInterface { name, accepts_sources };
        let mut roles = vec![launcher.admin(&topology.admin, address::ADMIN)?];
        wait_ready(&mut roles, clock)?;
        roles.push(router(
            0,
            address::VMR1,
            &[interface("src0", true), interface("bb0", false)],
            &topology.vmr1,
        )?);
        roles.push(router(
            1,
            address::VMR2,
            &[interface("bb0", false), interface("acc0", false)],
            &topology.vmr2,
        )?);
        wait_ready(&mut roles, clock)?;

        say("starting 4 agents, which find their VMR through the admin");
        for client in topology.clients.iter().chain([&topology.bystander]) {
            roles.push(launcher.agent(&client.node, address::ADMIN)?);
        }
        wait_ready(&mut roles, clock)?;

        say("starting the source: ffmpeg, an MPEG transport stream at a constant 8 Mbit/s");
        let recorder = Recorder::start(&topology.source, "eth0", STREAM, clock)?;
        let config = SourceConfig { stream: STREAM, local: address::SOURCE, bit_rate: BIT_RATE, ttl: 16 };
        let source = MpegTsSource::start(&topology.source, config)?.process;
        let mut stage = Self { roles, source: Some(source), recorder, topology, clock, lab };
        stage.wait_for_source()?;
        Ok(stage)
    }

    fn wait_for_source(&mut self) -> Result<(), LabError> {
        let limit = self.clock.now() + SOURCE_STARTS;
        while self.recorder.counts().packets == 0 {
            signals::check()?;
            self.check_alive()?;
            if self.clock.now() > limit {
                return Err(self.source_failure(format!("no packet after {} s", SOURCE_STARTS.as_secs())));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn source_failure(&self, why: String) -> LabError {
        let log = self.source.as_ref().map(|source| source.log_tail(10)).unwrap_or_default();
        LabError::Role { role: "the source".to_owned(), why, log }
    }

    /// VMR 1.
    #[must_use]
    pub fn vmr1(&self) -> &Role {
        &self.roles[VMR1]
    }

    /// VMR 2.
    #[must_use]
    pub fn vmr2(&self) -> &Role {
        &self.roles[VMR2]
    }

    /// Fails if a role or the source has ended by itself.
    ///
    /// # Errors
    /// [`LabError::Role`] with the end of its log.
    pub fn check_alive(&mut self) -> Result<(), LabError> {
        for role in &mut self.roles {
            role.check_alive()?;
        }
        if let Some(status) = self.source.as_mut().map(Process::try_wait).transpose()?.flatten() {
            return Err(self.source_failure(format!("ended by itself ({status})")));
        }
        Ok(())
    }

    /// The last lines of every role's log.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        self.roles.iter().map(|role| role.process.log_tail(lines)).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        stop_all(self.roles.drain(..).map(Role::into_process).chain(self.source.take()));
    }
}
