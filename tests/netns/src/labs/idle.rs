//! Connections to the admin that nobody has a use for, of every kind, while a stream runs and nodes register.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::TLS13,
};
use serde_json::Value;
use vmcast_lab::roles::{Role, wait_ready};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{SOURCE, STREAM, Small},
    stream::{Listener, Sender},
    tokens::{URL, agent, counted, ids, router, start_admin, token},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "ten thousand idle connections of every kind cost little, are counted as they end, and touch neither stream nor nodes",
        idle,
    )]
}

/// Connections that say nothing,
const SILENT: usize = 8_000;
/// that begin with TLS and say no more,
const BEGUN: usize = 1_000;
/// that have TLS and no certificate,
const STRANGERS: usize = 500;
/// and that have shown a node's,
const NODES: usize = 500;
/// of which so many may stand at once.
const MOST_OF_NODE: usize = 32;
/// What one of them may cost the admin: TLS's and HTTP/2's buffers, and what the kernel counts for the process.
const MOST_EACH: u64 = 32 * 1024;
const SOME: u64 = 150;
/// What is ended is found so within that.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection, or an answer in its handshake, that is not there after so long never comes.
const HANG: Duration = Duration::from_secs(60);

/// A connection with TLS, which nobody reads.
type Standing = (ClientConnection, TcpStream);

fn connect() -> Result<TcpStream, Failed> {
    Ok(TcpStream::connect_timeout(&SocketAddr::from(([10, 9, 0, 2], 8440)), HANG)?)
}

fn stand(config: &Arc<ClientConfig>) -> Result<Standing, Failed> {
    let mut stream = connect()?;
    stream.set_read_timeout(Some(HANG))?;
    stream.set_write_timeout(Some(HANG))?;
    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from("10.9.0.2")?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok((tls, stream))
}

/// TLS of whoever does not look at whom it has found, with the certificate of an identity, if one is named.
fn tls(identity: Option<&Path>) -> Result<Arc<ClientConfig>, Failed> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(directory) => {
            let stored: Value = serde_json::from_slice(&std::fs::read(directory.join("identity.json"))?)?;
            let text = |key: &str| stored[key].as_str().ok_or_else(|| format!("no {key}"));
            let key = PrivateKeyDer::from_pem_slice(text("key")?.as_bytes())?;
            config.with_client_auth_cert(vec![unhex(text("certificate")?)?.into()], key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Whether the other end has ended a connection, closed or reset.
fn is_ended(mut stream: TcpStream) -> Result<bool, Failed> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Ok(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        }
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, Failed> {
    let byte = |at: usize| -> Result<u8, Failed> {
        Ok(u8::from_str_radix(text.get(at..at + 2).ok_or("half a byte")?, 16)?)
    };
    (0..text.len()).step_by(2).map(byte).collect()
}

fn resident(admin: &Role) -> u64 {
    admin.ask(&["stats"]).unwrap_or_default()["resident_bytes"].as_u64().unwrap_or_default()
}

fn renewals(admin: &Role) -> u64 {
    admin.ask(&["stats"]).unwrap_or_default()["control"]["registry"]["renewals"].as_u64().unwrap_or_default()
}

// proves D4: idle connections keep nobody out, and take no more memory than they are worth
fn idle(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 4)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, "names = [\"10.9.0.2\"]\n")?;
    let _router = router(bed, &small, &admin)?;
    let mut member = agent(bed, small.client(1), URL, &["--token", &token(&admin, &["--role", "agent"])?])?;
    wait_ready([&mut member], bed.clock)?;
    let bystander = small.forbid(bed, 4)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let before = resident(&admin);
    let shown = tls(Some(&bed.lab.dir().join(format!("{}.identity", small.client(1).node()))))?;
    let hidden = tls(None)?;
    let open = move || -> Result<(Vec<TcpStream>, Vec<Standing>), Failed> {
        let mut silent: Vec<_> = (0..SILENT + BEGUN).map(|_| connect()).collect::<Result<_, _>>()?;
        for begun in &mut silent[SILENT..] {
            // The head of a record with a handshake of 512 bytes (RFC 8446 §5.1), and the first of these.
            begun.write_all(&[22, 3, 1, 2, 0, 1])?;
        }
        let of_each = [(&shown, NODES), (&hidden, STRANGERS)];
        let standing = of_each.into_iter().flat_map(|(config, count)| (0..count).map(move |_| config));
        Ok((silent, standing.map(stand).collect::<Result<_, _>>()?))
    };
    let (silent, standing) = small.client(2).enter(open)??;
    let word = token(&admin, &["--role", "agent"])?;
    let mut late = agent(bed, small.client(3), URL, &["--token", &word])?;
    wait_ready([&mut late], bed.clock)?;
    let late = Listener::join(small.client(3), STREAM, None)?;
    late.more(bed, SOME)?;
    ensure!(ids(&admin) == ["client1", "client3", "vmr"], "the admin knows {:?}", ids(&admin));
    let so_far = renewals(&admin);
    let mut most = resident(&admin);
    bed.until("the idle ones were ended, also those of a node", || {
        most = most.max(resident(&admin));
        let refused = counted(&admin, "handshake_failed");
        let cut = counted(&admin, "handshake_slow") + counted(&admin, "too_many_strangers") + refused;
        Ok(cut >= (SILENT + BEGUN + NODES) as u64
            && refused >= (NODES - MOST_OF_NODE) as u64
            && counted(&admin, "stranger_stayed") >= STRANGERS as u64)
    })?;
    bed.until("leases were renewed", || Ok(renewals(&admin) > so_far + 2))?;
    let each = most.saturating_sub(before) / (SILENT + BEGUN + STRANGERS + NODES) as u64;
    ensure!(each < MOST_EACH, "each of them cost {each} bytes: {before} before, {most} at most");
    let of_standing = standing.into_iter().map(|(_, stream)| stream);
    for (number, stream) in silent.into_iter().chain(of_standing).enumerate() {
        ensure!(is_ended(stream)?, "connection {number} stands, and is counted as ended");
    }

    ensure!(ids(&admin) == ["client1", "client3", "vmr"], "the admin knows {:?}", ids(&admin));
    let last = sender.stop()? - 1;
    for listener in [&listener, &late] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// It is idle connections that are looked at here, not whom they are to.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
