//! Tokens, certificates and revocations of admins that share an etcd.

use std::{sync::Arc, time::Duration};

use libtest_mimic::{Failed, Trial};
use tokio::{runtime::Runtime, sync::oneshot, time::Instant};
use vmcast::{
    admin::{Admin, AnyStore, Gate, Handle, Way},
    identity::{
        Authority, IdentityError, JoinToken, NodeIdentity, Role, Roster, ServerTls, TokenOrder, join,
        shared_authority,
    },
    link::{AdminClient, Attachment, RefusedQuestion, Settings, attach},
};
use vmcast_proto::{
    nearest,
    registry::{Config, NodeId, Registration, Registry, Role as NodeRole},
};
use vmcast_signal::v1;

use crate::{
    Outcome,
    cluster::{Cluster, clock, now},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a token that was used at one admin is used up at the other, also at the same time", replayed),
        trial("a node that is revoked at one admin is out at the other within a second", revoked),
        trial("a join that a VMR at one admin refuses is told to the agent at the other", refused),
        trial("a certificate that is renewed while its node is revoked elsewhere does not count", renewed),
    ]
}

const SECRET: &[u8] = b"what both admins know";
/// Revocations hold at every admin within that.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A test that waits longer than this hangs.
const HANG: Duration = Duration::from_secs(60);

/// An admin on loopback over the cluster.
struct Running {
    url: String,
    gate: Gate,
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

fn authority(handle: &Handle) -> Result<Authority, Failed> {
    // There is no such directory: the authority is in etcd, under the secret.
    Ok(shared_authority(&mut handle.clone(), "/nonexistent/vmcast".as_ref(), Some(SECRET), now())?)
}

fn handle(cluster: &Cluster, runtime: &Runtime) -> Result<Handle, Failed> {
    let registry = Registry::new(Config::default(), AnyStore::Etcd(cluster.open(runtime)?));
    Ok(Handle::new(registry, clock(), Way::default())?)
}

impl Running {
    fn start(cluster: &Cluster, runtime: &Runtime) -> Result<Self, Failed> {
        let handle = handle(cluster, runtime)?;
        let roster = Roster::new(Box::new(handle.clone()), authority(&handle)?);
        let gate = Gate::new(roster, ServerTls::new(Vec::new(), clock()), clock());
        let listen = ([127, 0, 0, 1], 0).into();
        let admin = runtime.block_on(Admin::bind_with(listen, handle.clone(), gate.clone()))?;
        let url = format!("https://{}", admin.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(admin.serve(async move {
            let _ = stopped.await;
        }));
        Ok(Self { url, gate, handle, _stop: stop })
    }

    async fn token(&self, admins: &[&Self], uses: u32) -> Result<JoinToken, Failed> {
        self.token_of(Role::Agent, admins, uses).await
    }

    async fn token_of(&self, role: Role, admins: &[&Self], uses: u32) -> Result<JoinToken, Failed> {
        let order = TokenOrder { role, ttl: Duration::from_secs(3600), uses, node: None };
        let admins = admins.iter().map(|admin| admin.url.clone()).collect();
        let made = self.gate.with(move |roster, now| {
            let (id, secret) = roster.create_token(now, &order)?;
            let fingerprint = roster.authority().fingerprint();
            Ok::<_, vmcast::identity::RosterError>(JoinToken { admins, fingerprint, id, secret })
        });
        Ok(made.await??)
    }

    fn client(&self, identity: &Arc<NodeIdentity>) -> Result<AdminClient, Failed> {
        Ok(AdminClient::new(std::slice::from_ref(&self.url), None, Some(identity))?)
    }

    async fn knows(&self, node: &str) -> Result<bool, Failed> {
        Ok(self.handle.nodes(None, 100).iter().any(|record| record.id().as_str() == node))
    }
}

pub(crate) fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

pub(crate) fn registration(name: &str) -> Registration {
    Registration {
        id: id(name),
        role: NodeRole::Agent,
        endpoints: vec![],
        name: name.parse().expect("a name"),
        software: "x".parse().expect("a name"),
        about: Default::default(),
    }
}

async fn come_in(token: &JoinToken, name: &str) -> Result<Arc<NodeIdentity>, IdentityError> {
    let directory = tempfile::tempdir().expect("a directory");
    join(token, &id(name), directory.path(), clock()).await.map(Arc::new)
}

pub(crate) fn ensure(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

// proves D4 and A2: several admins are one
fn replayed(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (one, two) = (Running::start(&cluster, runtime)?, Running::start(&cluster, runtime)?);
    runtime.block_on(async {
        let token = one.token(&[&one], 1).await?;
        let identity = come_in(&token, "a").await?;
        let elsewhere = JoinToken { admins: vec![two.url.clone()], ..token };
        let refused = come_in(&elsewhere, "b").await.err().map(|error| error.to_string());
        ensure(refused.is_some_and(|said| said.contains("used already")), "a used token let another in")?;
        // The certificate of one is good at the other.
        two.client(&identity)?.register(&registration("a")).await?;
        ensure(one.knows("a").await?, "the one does not know who registered at the other")?;

        for round in 0..10 {
            let token = one.token(&[&one], 1).await?;
            let other = JoinToken { admins: vec![two.url.clone()], ..token.clone() };
            let (first, second) = (format!("first{round}"), format!("second{round}"));
            let (first, second) = tokio::join!(come_in(&token, &first), come_in(&other, &second));
            let came_in = usize::from(first.is_ok()) + usize::from(second.is_ok());
            ensure(came_in == 1, &format!("{came_in} came in by one token: {first:?}, {second:?}"))?;
        }
        Ok(())
    })
}

fn revoked(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(3)?;
    let (one, two) = (Running::start(&cluster, runtime)?, Running::start(&cluster, runtime)?);
    runtime.block_on(async {
        let token = one.token(&[&one], 2).await?;
        let (out, stays) = (come_in(&token, "out").await?, come_in(&token, "stays").await?);
        let (client, other) = (two.client(&out)?, two.client(&stays)?);
        client.register(&registration("out")).await?;
        other.register(&registration("stays")).await?;
        let begin = Instant::now();
        one.gate.revoke_node(id("out")).await?.ok_or("it was not in")?;
        // Nothing but the connection that stands at the other admin.
        let refused = loop {
            match client.register(&registration("out")).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => break error.to_string(),
            }
            ensure(begin.elapsed() < AT_ONCE, "it is still in after a second")?;
        };
        ensure(refused.contains("revoked"), &refused)?;
        while one.knows("out").await? || two.knows("out").await? {
            ensure(begin.elapsed() < 2 * AT_ONCE, "its lease goes on")?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("out after {:?}", begin.elapsed());
        let again = two.client(&out)?.register(&registration("out")).await;
        ensure(again.is_err(), "a new connection helped it")?;
        other.register(&registration("stays")).await?;
        ensure(one.knows("stays").await? && !one.knows("out").await?, "the wrong one is out")
    })
}

/// The other admin signs on what it has read before, whatever was revoked meanwhile.
fn renewed(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let handles = [handle(&cluster, runtime)?, handle(&cluster, runtime)?];
    let mut rosters = Vec::new();
    for handle in &handles {
        rosters.push(Roster::new(Box::new(handle.clone()), authority(handle)?));
    }
    let [one, two] = rosters.as_mut_slice() else { unreachable!("two") };
    for round in 0..20 {
        let name = id(&format!("n{round}"));
        let order = TokenOrder { role: Role::Agent, ttl: Duration::from_secs(9), uses: 1, node: None };
        let (token, secret) = one.create_token(now(), &order)?;
        let request = vmcast::identity::certificate_request();
        let signed = one.join(now(), (&token, &secret), &name, &request)?;
        // Once the other has heard of it.
        crate::cluster::until("the other knows the certificate", || {
            two.standing(&name, &signed.certified.serial)
                .is_ok_and(|standing| standing == vmcast::identity::Standing::Good)
        })?;
        let renewed = std::thread::scope(|scope| {
            let renewing = scope.spawn(|| {
                two.renew(now(), &name, &signed.certified.serial, &request).map(|signed| signed.certified)
            });
            let revoking = scope.spawn(|| one.revoke_node(now(), &name));
            revoking.join().expect("no panic").map(|_| renewing.join().expect("no panic"))
        })?;
        let serials = [Some(signed.certified.serial), renewed.ok().map(|certified| certified.serial)];
        for serial in serials.into_iter().flatten() {
            crate::cluster::until("neither certificate counts at either", || {
                [&*one, &*two].iter().all(|roster| {
                    roster
                        .standing(&name, &serial)
                        .is_ok_and(|standing| standing != vmcast::identity::Standing::Good)
                })
            })?;
        }
    }
    Ok(())
}

/// A node's link to one admin alone.
fn attached(
    admin: &Running,
    identity: Arc<NodeIdentity>,
    registration: Registration,
) -> Result<Attachment, Failed> {
    Ok(attach(Settings {
        admins: vec![admin.url.clone()],
        registration,
        requery: Settings::REQUERY,
        local: None,
        probe: nearest::Config::default(),
        seed: 5,
        identity: Some(identity),
    })?)
}

// proves D4: whichever admin an agent has, it hears why its join is refused, and that it no longer is
fn refused(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (one, two) = (Running::start(&cluster, runtime)?, Running::start(&cluster, runtime)?);
    runtime.block_on(async {
        let of_vmr = come_in(&one.token_of(Role::Router, &[&one], 1).await?, "core").await?;
        let of_agent = come_in(&two.token(&[&two], 1).await?, "a").await?;
        let (role, endpoints) = (NodeRole::Vmr { rank: 0 }, vec!["127.0.0.9:2268".parse()?]);
        let vmr = attached(&one, of_vmr, Registration { role, endpoints, ..registration("core") })?;
        let agent = attached(&two, of_agent, registration("a"))?;
        let (group, tunnel): (std::net::IpAddr, _) = ([239, 1, 1, 1].into(), "127.0.0.1:5000");
        agent.ask_refused(Some(RefusedQuestion {
            vmr: id("core"),
            tunnel: tunnel.parse()?,
            missing: [group].into(),
        }));
        let reason = "rule 1 of the policy forbids it".to_owned();
        let join =
            v1::RefusedJoin { tunnel: tunnel.to_owned(), group: group.to_string(), reason: reason.clone() };
        let mut told = agent.refused();
        vmr.refuses(v1::RefusedJoins { joins: vec![join] });
        let hear = told.wait_for(|groups| groups.get(&group) == Some(&reason));
        tokio::time::timeout(HANG, hear).await.map_err(|_| "the agent does not hear of it")??;
        vmr.refuses(v1::RefusedJoins::default());
        let hear = told.wait_for(std::collections::BTreeMap::is_empty);
        tokio::time::timeout(HANG, hear).await.map_err(|_| "the agent does not hear that it is over")??;
        Ok(())
    })
}
