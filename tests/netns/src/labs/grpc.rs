//! The admin's port as a client of others finds it: gRPC's own library, in Python, which has nothing of ours.

use std::process::Command;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{
    bed::{Bed, Outcome, ensure, trial_with},
    small::Small,
    tokens::start_admin,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with(
        "gRPC's own library reads the schema by reflection and asks for health, and no more",
        // Where Debian's package has it: there is no program in it.
        "/usr/lib/python3/dist-packages/grpc/__init__.py",
        "python3-grpcio",
        asked,
    )]
}

const CLIENT: &str = include_str!("grpc_client.py");
/// That of the distribution: others do not find its packages.
const PYTHON: &str = "/usr/bin/python3";

// proves "gRPC reflection and health": that another implementation understands them, over TLS 1.3
fn asked(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, "names = [\"10.9.0.2\"]\n")?;
    let script = bed.lab.dir().join("client.py");
    std::fs::write(&script, CLIENT)?;
    let authority = bed.lab.dir().join(format!("{}.identity/ca.pem", host.node()));
    let mut command = Command::new(PYTHON);
    command.arg(&script).arg("10.9.0.2:8440").arg(&authority);
    let said = small.client(1).run(command)?;
    let said: Value = serde_json::from_slice(&said.stdout)?;

    let methods = json!({
        "grpc.health.v1.Health": ["Check", "Watch"],
        "grpc.reflection.v1.ServerReflection": ["ServerReflectionInfo"],
        "vmcast.v1.Identity": ["Join", "Renew"],
        "vmcast.v1.Registry": [
            "Register", "Deregister", "Nearest", "ReportNearest", "ProbeMe", "Attend", "RefusedJoins", "ListNodes",
            "ListCache"
        ],
    });
    ensure!(said["methods"] == methods, "reflection tells {}", said["methods"]);
    let health = json!({
        "": "SERVING",
        "vmcast.v1.Registry": "SERVING",
        "vmcast.v1.Identity": "SERVING",
        "vmcast.v1.Nothing": "NOT_FOUND",
    });
    ensure!(said["health"] == health, "of its health it says {}", said["health"]);
    // Whoever may know that has no right to know more.
    ensure!(said["nodes"] == "UNAUTHENTICATED", "of the nodes it says {}", said["nodes"]);
    let stats = admin.ask(&["stats"]).unwrap_or_default();
    ensure!(
        stats["control"]["identity"]["no_certificate"] == 1,
        "it counts {}",
        stats["control"]["identity"]
    );
    Ok(())
}
