//! An etcd behind TLS, which wants certificates of its clients.

use libtest_mimic::Trial;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::runtime::Runtime;
use vmcast::admin::{EtcdError, EtcdSettings, EtcdStore, EtcdTls};
use vmcast_proto::registry::{Change, Role, Rows as _, Store as _, conformance};

use crate::{
    Outcome,
    cluster::{Cluster, clock, until},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "a cluster that wants certificates lets in who has one of its authority, and nobody else",
        tls,
    )]
}

/// An authority for a test.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn make(name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn sign(&self, name: &str) -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

// proves D4: what admins keep in etcd passes the network encrypted, and only admins reach it
fn tls(runtime: &Runtime) -> Outcome {
    let (ca, other) = (Ca::make("etcd")?, Ca::make("another")?);
    let cluster = Cluster::start_secure(&ca.pem(), &ca.sign("member")?)?;
    let by = |authority: &Ca, client: Option<(String, String)>| EtcdSettings {
        tls: Some(EtcdTls {
            authorities: authority.pem().into_bytes(),
            client: client.map(|(chain, key)| (chain.into_bytes(), key.into_bytes())),
        }),
        ..cluster.settings()
    };
    let mut one = cluster.open_with(runtime, by(&ca, Some(ca.sign("admin")?)))?;
    let two = cluster.open_with(runtime, by(&ca, Some(ca.sign("admin")?)))?;
    one.commit(&[Change::PutNode(conformance::node(
        "v",
        Role::Vmr { rank: 0 },
        &["192.0.2.1:2268"],
        u64::MAX,
    ))])?;
    until("the other admin knows it", || two.rows().node_count() == 1)?;

    for (what, settings) in [
        ("without a certificate", by(&ca, None)),
        ("with another authority's", by(&ca, Some(other.sign("admin")?))),
        ("a client that does not know the member", by(&other, Some(ca.sign("admin")?))),
        ("in the clear", EtcdSettings { tls: None, ..cluster.plain_settings() }),
    ] {
        let refused = runtime.block_on(EtcdStore::open(settings, clock()));
        if !matches!(refused, Err(EtcdError::Etcd(_))) {
            return Err(format!("{what}: {refused:?}").into());
        }
    }
    let broken = EtcdTls { authorities: b"no certificate".to_vec(), client: None };
    let refused =
        runtime.block_on(EtcdStore::open(EtcdSettings { tls: Some(broken), ..cluster.settings() }, clock()));
    match refused {
        Err(error @ EtcdError::Tls(_)) if error.to_string().contains("etcd.ca_file") => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
