//! A node with a certificate of the admin, and its connections by TLS 1.3.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use vmcast_lab::{Lab, Namespace, clock::Clock, signals};

use super::{
    connection::{Carrier, connect},
    process::{self, LISTEN},
};

/// What the node is called.
pub(super) const NODE: &str = "asker";
const READY: Duration = Duration::from_secs(30);

/// What an agent keeps of itself.
#[derive(Deserialize)]
struct Identity {
    key: String,
    certificate: String,
    authority: String,
}

/// How a node connects.
#[derive(Clone, Debug)]
pub(super) struct Node(Arc<ClientConfig>);

impl Node {
    /// Lets an agent join by a token, and takes what it is then.
    /// That is in a directory of this name.
    pub(super) fn join(lab: &Lab, namespace: &Namespace, program: &Path, directory: &str) -> Result<Self> {
        let socket = process::socket(lab);
        let mut create = Command::new(program);
        create
            .args([
                "node", "token", "create", "--role", "agent", "--name", NODE, "--ttl", "1h", "--json",
                "--socket",
            ])
            .arg(&socket);
        let created: serde_json::Value = serde_json::from_slice(&namespace.run(create)?.stdout)?;
        let token = created["token"].as_str().context("no token was created")?;

        let directory = lab.dir().join(directory);
        let config = lab.dir().join("asker.toml");
        let text = format!(
            "name = \"{NODE}\"\n[admin]\nurls = [\"https://{LISTEN}\"]\nidentity = \"{}\"\n[upstream]\nfrom = \"admin\"\n[interface]\nname = \"asker0\"\n\
             [control]\nsocket = \"{}\"\n",
            directory.display(),
            lab.dir().join("asker.sock").display(),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(program);
        command.arg("agent").arg("--config").arg(&config).args(["--token", token]);
        let mut agent = namespace.spawn(NODE, command)?;
        let kept = directory.join("identity.json");
        let clock = Clock::start();
        while !kept.exists() {
            signals::check()?;
            if let Some(status) = agent.try_wait()? {
                bail!("the agent ended ({status})\n{}", agent.log_tail(20));
            }
            ensure!(clock.now() < READY, "the agent has not joined\n{}", agent.log_tail(20));
            thread::sleep(Duration::from_millis(50));
        }
        agent.stop()?;
        Self::of(&serde_json::from_slice(&fs::read(&kept)?)?)
    }

    fn of(identity: &Identity) -> Result<Self> {
        let certificate = |text: &str| hexadecimal(text).map(CertificateDer::from).context("no hexadecimal");
        let authority = certificate(&identity.authority)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![certificate(&identity.certificate)?], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// The admin's certificate, once it was verified.
    pub(super) fn verified(&self, from: Ipv4Addr, to: SocketAddrV4) -> Result<CertificateDer<'static>> {
        let (tls, _) = self.shake_hands(from, to)?;
        let certificate = tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        Ok(certificate.clone().into_owned())
    }

    /// Connects; says whether an earlier connection was resumed.
    pub(super) fn connect(&self, from: Ipv4Addr, to: SocketAddrV4) -> Result<(Box<dyn Carrier>, bool)> {
        let (tls, socket) = self.shake_hands(from, to)?;
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok((Box::new(StreamOwned::new(tls, socket)), resumed))
    }

    fn shake_hands(&self, from: Ipv4Addr, to: SocketAddrV4) -> Result<(ClientConnection, TcpStream)> {
        let mut socket = connect(from, to)?;
        let mut tls =
            ClientConnection::new(Arc::clone(&self.0), ServerName::from(std::net::IpAddr::from(*to.ip())))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("the handshake of TLS")?;
        }
        Ok((tls, socket))
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| text.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..text.len()).step_by(2).map(digits).collect()
}
