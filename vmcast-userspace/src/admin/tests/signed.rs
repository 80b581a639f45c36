//! Nodes whose key and request for a certificate come from another tool, here openssl.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use vmcast_proto::registry::Role as NodeRole;
use vmcast_signal::tonic::Code;

use super::{
    bed::Bed,
    identity::{client, code, count, id, order, refused_name, registration, token},
};
use crate::{
    identity::{
        Given, IdentityError, NodeIdentity, Refusal, Role, RosterError, Signed, certificate_pem, join,
    },
    link::renew,
};

const DAY: Duration = Duration::from_secs(86_400);
/// What an operator asks openssl for.
const ED25519: &[&str] = &["-newkey", "ed25519"];

/// Whether openssl is there; said loudly if not.
fn has_openssl() -> bool {
    let is_there = Command::new("openssl").arg("version").output().is_ok();
    if !is_there {
        eprintln!("SKIPPED a test of certificate requests: openssl is not installed");
    }
    is_there
}

/// Runs openssl in a directory.
fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().expect("openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A key in `NAME.key` and a request of it; the request in DER.
fn request(directory: &Path, name: &str, key: &[&str], more: &[&str]) -> Vec<u8> {
    let (key_file, subject) = (format!("{name}.key"), format!("/CN=whoever/O={name}"));
    let ways = ["-nodes", "-keyout", &key_file, "-subj", &subject, "-outform", "DER", "-out", "request.der"];
    openssl(directory, &[&["req", "-new"], key, &ways, more].concat());
    std::fs::read(directory.join("request.der")).expect("a request")
}

async fn sign(bed: &Bed, name: &str, role: Role, request: &[u8]) -> Result<Signed, RosterError> {
    let (node, request) = (id(name), request.to_vec());
    bed.gate.with(move |roster, now| roster.sign_for_operator(now, (&node, role), &request, None)).await?
}

/// Why it is not signed; that is counted.
async fn refused(bed: &Bed, name: &str, role: Role, request: &[u8], refusal: Refusal) {
    let before = count(bed, refusal);
    let error = sign(bed, name, role, request).await.expect_err("refused");
    assert_eq!(error.to_string(), refusal.to_string());
    assert_eq!(count(bed, refusal), before + 1);
}

/// Writes the file that `vmcast node sign` prints.
async fn write(bed: &Bed, directory: &Path, name: &str, signed: &Signed) -> Given {
    let authority = bed.gate.with(|roster, _| roster.authority().certificate_pem()).await.expect("TLS");
    let text = format!("for people\n{}{authority}", certificate_pem(&signed.certificate));
    let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    std::fs::write(&certificate, text).expect("a file");
    Given { certificate, key }
}

fn begin(bed: &Bed, given: &Given, directory: &Path) -> Result<Arc<NodeIdentity>, IdentityError> {
    let known = NodeIdentity::load(directory, bed.clock.clone())?;
    given.open(known, vec![bed.url()], directory, bed.clock.clone()).map(Arc::new)
}

fn identity_of(directory: &Path) -> PathBuf {
    directory.join("identity")
}

// proves D4: a certificate that was made beforehand is as good as a token, whatever kind of key its node has made
#[tokio::test]
async fn a_request_of_another_tool_brings_its_node_in() {
    if !has_openssl() {
        return;
    }
    let bed = Bed::secure().await;
    let kinds: [(&str, &[&str], &[&str]); 5] = [
        ("ed25519", ED25519, &[]),
        ("p256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &[]),
        ("p384", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha384"], &[]),
        ("rsa", &["-newkey", "rsa:2048"], &[]),
        // With what such tools like to ask for; none of it is given.
        (
            "greedy",
            ED25519,
            &[
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "subjectKeyIdentifier=hash",
                "-addext",
                "subjectAltName=DNS:admin.example.net",
                "-addext",
                "extendedKeyUsage=serverAuth",
            ],
        ),
    ];
    for (name, key, more) in kinds {
        let directory = tempfile::tempdir().unwrap();
        let request = request(directory.path(), name, key, more);
        let signed = sign(&bed, name, Role::Agent, &request).await.expect(name);
        assert_eq!((&signed.certified.node, signed.certified.role), (&id(name), Role::Agent));
        let (_, parsed) = x509_parser::parse_x509_certificate(&signed.certificate).unwrap();
        assert!(!parsed.is_ca() && parsed.subject_alternative_name().unwrap().is_none(), "{name}");
        assert!(!parsed.extended_key_usage().unwrap().unwrap().value.server_auth, "{name}");

        let given = write(&bed, directory.path(), name, &signed).await;
        assert_eq!(given.certified().unwrap().as_ref(), Some(&signed.certified));
        let identity = begin(&bed, &given, &identity_of(directory.path())).expect(name);
        let client = client(&bed, &identity);
        client.register(&registration(name, NodeRole::Agent)).await.expect(name);
        // The leases of those before have run out.
        assert_eq!(bed.ids().await, [name]);
        // From then on it goes as with a token: the files are needed no more, and what it has is renewed.
        bed.pass(DAY);
        renew(&identity, &client).await.expect("renewed");
        assert_ne!(identity.certified().serial, signed.certified.serial);
        let again = begin(&bed, &given, &identity_of(directory.path())).expect("the same files");
        assert_eq!(again.certified(), identity.certified(), "the younger one counts");
        std::fs::remove_file(&given.certificate).unwrap();
        std::fs::remove_file(&given.key).unwrap();
        let again = begin(&bed, &given, &identity_of(directory.path())).expect("without the files");
        assert_eq!(again.certified(), identity.certified());
        assert_eq!(again.admins(), [bed.url()]);
    }
    let signed = bed.gate.tally().counters().find(|(name, _)| *name == "signed");
    assert_eq!(signed, Some(("signed", 5)));
    bed.stop().await;
}

// proves D4: what an operator has signed gives nobody another's name, and no revoked key a new certificate
#[tokio::test]
async fn names_that_are_taken_and_keys_that_were_revoked_get_no_certificate() {
    if !has_openssl() {
        return;
    }
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let of_token = tempfile::tempdir().unwrap();
    let word = token(&bed, order(Role::Router)).await;
    join(&word, &id("core"), of_token.path(), bed.clock.clone()).await.expect("joined");
    let first = request(directory.path(), "a", ED25519, &[]);
    refused(&bed, "core", Role::Router, &first, Refusal::NameTaken).await;
    let signed = sign(&bed, "a", Role::Agent, &first).await.expect("signed");
    let given = write(&bed, directory.path(), "a", &signed).await;
    let identity = begin(&bed, &given, &identity_of(directory.path())).expect("begun");
    // The same node may have another of the same key, if what was printed is lost; but not in another role.
    sign(&bed, "a", Role::Agent, &first).await.expect("signed again");
    refused(&bed, "a", Role::Router, &first, Refusal::NameTaken).await;
    let second = request(directory.path(), "b", ED25519, &[]);
    refused(&bed, "a", Role::Agent, &second, Refusal::NameTaken).await;
    refused_name(&bed, "a").await;

    let client = client(&bed, &identity);
    client.register(&registration("a", NodeRole::Agent)).await.expect("in");
    bed.pass(Duration::from_secs(1));
    let open = bed.gate.revoke_node(id("a")).await.unwrap().expect("it was in");
    assert!(open.is_empty(), "{open:?}");
    let failure = client.register(&registration("a", NodeRole::Agent)).await.expect_err("revoked");
    assert_eq!(code(&failure), Code::Unauthenticated);
    refused(&bed, "a", Role::Agent, &first, Refusal::KeyRevoked).await;
    let anew = sign(&bed, "a", Role::Agent, &second).await.expect("another key");
    let given =
        Given { key: directory.path().join("b.key"), ..write(&bed, directory.path(), "a", &anew).await };
    let identity = begin(&bed, &given, &identity_of(directory.path())).expect("begun anew");
    assert_eq!(identity.certified(), anew.certified);
    super::identity::client(&bed, &identity).register(&registration("a", NodeRole::Agent)).await.expect("in");
    bed.stop().await;
}

// proves D4: a file that is older than what its node has does not put it out
#[tokio::test]
async fn an_old_file_takes_no_place_of_what_the_node_has_since() {
    if !has_openssl() {
        return;
    }
    let (bed, other) = (Bed::secure().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let path = identity_of(directory.path());
    let request_of = |name: &str| request(directory.path(), name, ED25519, &[]);
    let first = sign(&bed, "a", Role::Agent, &request_of("first")).await.expect("signed");
    let given = |name: &str, file: Given| Given { key: directory.path().join(format!("{name}.key")), ..file };
    let first = given("first", write(&bed, directory.path(), "a", &first).await);
    begin(&bed, &first, &path).expect("begun");

    // Revoked, it joins by a token, as it is told to; the file is still in its configuration.
    bed.pass(Duration::from_secs(2));
    bed.gate.revoke_node(id("a")).await.unwrap().expect("it was in");
    bed.pass(Duration::from_secs(2));
    let word = token(&bed, order(Role::Agent)).await;
    let joined = join(&word, &id("a"), &path, bed.clock.clone()).await.expect("joined");
    let again = begin(&bed, &first, &path).expect("the same file");
    assert_eq!((again.certified(), again.joined_by()), (joined.certified(), word.id));
    renew(&again, &client(&bed, &again)).await.expect("it is in");
    assert_eq!(begin(&bed, &first, &path).unwrap().certified(), again.certified());

    // A younger one counts, and none that is put back after it.
    bed.pass(Duration::from_secs(2));
    bed.gate.revoke_node(id("a")).await.unwrap().expect("it was in");
    let second = sign(&bed, "a", Role::Agent, &request_of("second")).await.expect("signed");
    let text = std::fs::read(&first.certificate).unwrap();
    let younger = given("second", write(&bed, directory.path(), "a", &second).await);
    assert_eq!(begin(&bed, &younger, &path).expect("the younger").certified(), second.certified);
    std::fs::write(&first.certificate, text).unwrap();
    assert_eq!(begin(&bed, &first, &path).expect("the older").certified(), second.certified);
    // Nor does it end the node when its time is over.
    bed.pass(DAY);
    let identity = begin(&bed, &first, &path).expect("the older");
    renew(&identity, &client(&bed, &identity)).await.expect("it is in");
    bed.pass(29 * DAY + DAY / 2);
    assert_eq!(begin(&bed, &first, &path).expect("over").certified(), identity.certified());

    // The node has joined another network since: what it was given in the one before is none of that.
    let word = token(&other, order(Role::Agent)).await;
    let elsewhere = Arc::new(join(&word, &id("a"), &path, other.clock.clone()).await.expect("joined"));
    renew(&elsewhere, &client(&other, &elsewhere)).await.expect("renewed");
    let file = given("second", write(&bed, directory.path(), "a", &second).await);
    assert_eq!(begin(&other, &file, &path).expect("the same file").certified(), elsewhere.certified());
    bed.stop().await;
    other.stop().await;
}

// proves D4: the operator moves a node to another network and back by the file, whatever was signed first
#[tokio::test]
async fn a_file_of_another_authority_moves_the_node_however_old_it_is() {
    if !has_openssl() {
        return;
    }
    let (bed, other) = (Bed::secure().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let path = identity_of(directory.path());
    let mut files = Vec::new();
    for (at, name) in [(&bed, "here"), (&other, "there")] {
        let request = request(directory.path(), name, ED25519, &[]);
        let signed = sign(at, "a", Role::Agent, &request).await.expect("signed");
        files.push((write(at, directory.path(), name, &signed).await, signed.certified));
    }
    let [(here, first), (there, second)] = files.try_into().expect("two");
    let identity = begin(&bed, &here, &path).expect("begun");
    // What it has is younger by far than what the other one signed.
    bed.pass(10 * DAY);
    other.pass(10 * DAY);
    renew(&identity, &client(&bed, &identity)).await.expect("renewed");
    let moved = begin(&other, &there, &path).expect("moved");
    assert_eq!((moved.certified(), moved.admins()), (second.clone(), vec![other.url()]));
    let registered = client(&other, &moved).register(&registration("a", NodeRole::Agent)).await;
    registered.expect("it is in there");
    assert_eq!((bed.ids().await, other.ids().await), (vec![], vec!["a".to_owned()]));
    // And back, by the file of before.
    assert_eq!(begin(&bed, &here, &path).expect("moved back").certified(), first);
    assert_eq!(begin(&other, &there, &path).expect("and again").certified(), second);
    // One that is over moves nobody, and ends nobody.
    let present = begin(&other, &there, &path).expect("there");
    renew(&present, &client(&other, &present)).await.expect("renewed");
    other.pass(25 * DAY);
    assert_eq!(begin(&other, &here, &path).expect("left alone").certified(), present.certified());
    let registered = client(&other, &present).register(&registration("a", NodeRole::Agent)).await;
    registered.expect("it is in still");
    other.pass(30 * DAY);
    let error = begin(&other, &here, &path).expect_err("its own is over, too").to_string();
    assert!(error.contains("it has expired"), "{error}");
    bed.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_is_no_request_or_not_signed_by_its_key_is_refused() {
    if !has_openssl() {
        return;
    }
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let good = request(directory.path(), "a", ED25519, &[]);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let behind = [&good[..], &[0]].concat();
    let weak = request(directory.path(), "weak", &["-newkey", "rsa:1024"], &[]);
    let sha1 = request(directory.path(), "sha1", &["-newkey", "rsa:2048", "-sha1"], &[]);
    openssl(
        directory.path(),
        &["req", "-x509", "-key", "a.key", "-outform", "DER", "-out", "c.der", "-subj", "/CN=a"],
    );
    let certificate = std::fs::read(directory.path().join("c.der")).unwrap();
    for bad in [forged, behind, weak, sha1, certificate, good[..good.len() / 2].to_vec(), Vec::new()] {
        refused(&bed, "a", Role::Agent, &bad, Refusal::BadRequest).await;
    }
    sign(&bed, "a", Role::Agent, &good).await.expect("the good one");
    bed.stop().await;
}

// Each says what is wrong with which file, and leaves no identity behind.
#[tokio::test]
async fn files_that_do_not_belong_together_begin_nothing() {
    if !has_openssl() {
        return;
    }
    let (bed, other) = (Bed::secure().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let signed = sign(&bed, "a", Role::Agent, &request(directory.path(), "a", ED25519, &[])).await.unwrap();
    let given = write(&bed, directory.path(), "a", &signed).await;
    let foreign = other.gate.with(|roster, _| roster.authority().certificate_pem()).await.unwrap();
    request(directory.path(), "b", ED25519, &[]);
    openssl(
        directory.path(),
        &["req", "-x509", "-key", "a.key", "-out", "self.pem", "-subj", "/CN=a/OU=agent"],
    );
    openssl(directory.path(), &["req", "-x509", "-key", "a.key", "-out", "nobody.pem", "-subj", "/CN=a"]);
    openssl(
        directory.path(),
        &["pkcs8", "-topk8", "-in", "a.key", "-out", "locked.key", "-passout", "pass:x"],
    );
    std::fs::write(path("alone.pem"), certificate_pem(&signed.certificate)).unwrap();
    std::fs::write(path("foreign.pem"), certificate_pem(&signed.certificate) + &foreign).unwrap();
    std::fs::write(path("text"), "nothing").unwrap();
    let cases = [
        ("a.pem", "b.key", "b.key: it is not the key of"),
        ("a.pem", "locked.key", "locked.key: it holds no key in PEM, or an encrypted one"),
        ("a.pem", "none.key", "none.key: there is no such file"),
        ("a.pem", "a.pem", "a.pem: it holds no key"),
        ("none.pem", "a.key", "none.pem: there is no such file"),
        ("text", "a.key", "text: it holds no certificate"),
        ("a.key", "a.key", "a.key: it holds no certificate"),
        ("nobody.pem", "a.key", "nobody.pem: it is no certificate of a node"),
        ("alone.pem", "a.key", "alone.pem: behind the node's certificate there is not"),
        ("foreign.pem", "a.key", "foreign.pem: behind the node's certificate there is not"),
    ];
    let fails = |certificate: &str, key: &str, says: &str| {
        let given = Given { certificate: path(certificate), key: path(key) };
        let error = begin(&bed, &given, &identity_of(directory.path())).expect_err(says).to_string();
        assert!(error.contains(says), "{certificate} and {key}: {error}");
        assert!(!identity_of(directory.path()).exists(), "{certificate} and {key}");
    };
    for (certificate, key, says) in cases {
        fails(certificate, key, says);
    }
    // Of another admin it begins, and is told so there: here it is a stranger.
    let theirs = sign(&other, "a", Role::Agent, &request(directory.path(), "c", ED25519, &[])).await.unwrap();
    let stranger = write(&other, directory.path(), "c", &theirs).await;
    let stranger = begin(&bed, &stranger, &path("stranger")).expect("its parts belong together");
    let failure = client(&bed, &stranger).register(&registration("a", NodeRole::Agent)).await;
    assert!(failure.expect_err("a stranger").to_string().contains("another authority"));
    assert_eq!(bed.ids().await, [""; 0]);
    // In time.
    bed.pass(31 * DAY);
    fails("a.pem", "a.key", "a.pem: it has expired");
    bed.turn_back(31 * DAY);
    begin(&bed, &given, &identity_of(directory.path())).expect("in its time");
    bed.stop().await;
    other.stop().await;
}
