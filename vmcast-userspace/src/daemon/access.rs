//! The operator's commands on join tokens and nodes that are in.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tracing::{error, info, warn};
use vmcast_api::{
    ErrorReply, NewCertificate, NewToken, Page, Request, Response, Revoked, Role, SigningOrder, Token,
    TokenOrder, TokenState, Tokens,
};
use vmcast_proto::registry::{NodeId, UnixMillis};

use crate::{
    admin::{Gate, Handle},
    config::{AdminConfig, Present},
    identity::{self, JoinToken, Refusal, RosterError, certificate_pem},
};

/// What the commands work on.
#[derive(Debug)]
pub(super) struct Access {
    gate: Gate,
    registry: Handle,
    config: AdminConfig,
}

impl Access {
    pub(super) const fn new(gate: Gate, registry: Handle, config: AdminConfig) -> Self {
        Self { gate, registry, config }
    }

    /// What was done and refused.
    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        self.gate.tally().counters().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Answers what is about tokens and nodes that are in.
    pub(super) async fn answer(&self, request: &Request) -> Response {
        let answered = match request {
            Request::TokenCreate { order } => self.create(order).await,
            Request::TokenList { page } => self.list(page).await,
            Request::TokenRevoke { id } => self.revoke_token(id).await,
            Request::NodeRevoke { node } => self.revoke_node(node).await,
            Request::NodeSign { order } => self.sign(order).await,
            other => return Response::not_this_role(Role::Admin, other),
        };
        answered.unwrap_or_else(|error| {
            error!(%error, "a command failed");
            Response::error(error.to_string())
        })
    }

    async fn create(&self, order: &TokenOrder) -> Result<Response, RosterError> {
        let Some(role) = of_node(order.role) else {
            return Ok(said("an admin does not join", "make a token for a router or an agent"));
        };
        let node: Option<NodeId> = match order.name.as_deref().map(str::parse).transpose() {
            Ok(node) => node,
            Err(error) => return Ok(Response::error(format!("the name cannot be one of a node: {error}"))),
        };
        let urls = match order.urls.as_slice() {
            [] => self.config.urls(&Present::on_this_host()),
            urls => urls.to_vec(),
        };
        if urls.is_empty() {
            return Ok(said(
                "it is not known where nodes reach this admin",
                "say so by --url, or names in its file",
            ));
        }
        let ttl = Duration::from_secs(order.ttl_seconds);
        let wanted = identity::TokenOrder { role, ttl, uses: order.uses, node };
        let (id, secret, fingerprint) = self
            .gate
            .with(move |roster, now| {
                let (id, secret) = roster.create_token(now, &wanted)?;
                Ok::<_, RosterError>((id, secret, roster.authority().fingerprint()))
            })
            .await??;
        info!(id, role = role.label(), ?ttl, uses = order.uses, "join token made");
        let token = JoinToken { admins: urls.clone(), fingerprint, id: id.clone(), secret }.to_string();
        let left_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::NewToken(NewToken { id, token, urls, role: order.role, left_ms, uses: order.uses }))
    }

    async fn sign(&self, order: &SigningOrder) -> Result<Response, RosterError> {
        let Some(role) = of_node(order.role) else {
            return Ok(said(
                "an admin needs no certificate",
                "it makes its own; sign one of a router or an agent",
            ));
        };
        let node: NodeId = match order.node.parse() {
            Ok(node) => node,
            Err(error) => return Ok(Response::error(format!("the name cannot be one of a node: {error}"))),
        };
        // What is no Base64 is no request, either.
        let request = STANDARD.decode(&order.certificate_request).unwrap_or_default();
        let (of, lifetime) = (node.clone(), order.ttl_seconds.map(Duration::from_secs));
        let signed = self
            .gate
            .with(move |roster, now| {
                let signed = roster.sign_for_operator(now, (&of, role), &request, lifetime)?;
                let left_ms = signed.certified.expires.0.saturating_sub(now.0);
                let chain = certificate_pem(&signed.certificate) + &roster.authority().certificate_pem();
                Ok((signed.certified.serial, left_ms, chain))
            })
            .await
            .and_then(|signed| signed);
        match signed {
            Ok((serial, left_ms, chain)) => {
                info!(%node, role = role.label(), serial, "certificate signed by the operator's order");
                Ok(Response::NewCertificate(NewCertificate {
                    node: node.to_string(),
                    role: order.role,
                    serial,
                    left_ms,
                    chain,
                }))
            }
            Err(RosterError::Refused(refusal)) => {
                info!(%node, reason = refusal.label(), "certificate refused");
                let error = refusal.to_string();
                Ok(if refusal == Refusal::BadRequest {
                    said(&error, "keys may be for Ed25519, ECDSA (P-256, P-384) or RSA (2048 bits or more)")
                } else {
                    Response::error(error)
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn list(&self, page: &Page) -> Result<Response, RosterError> {
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
        let (mut entries, now) = self
            .gate
            .with(move |roster, now| roster.tokens(now, &after, limit + 1).map(|entries| (entries, now)))
            .await??;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|entry| entry.id.clone());
        Ok(Response::Tokens(Tokens {
            next,
            tokens: entries.into_iter().map(|entry| token(entry, now)).collect(),
        }))
    }

    async fn revoke_token(&self, id: &str) -> Result<Response, RosterError> {
        let of = id.to_owned();
        if self.gate.with(move |roster, _| roster.revoke_token(&of)).await?? {
            info!(id, "join token revoked");
            Ok(Response::Revoked(Revoked { revoked: id.to_owned(), open_tokens: Vec::new() }))
        } else {
            Ok(said(&format!("there is no join token {id}"), "`vmcast node token list` shows them"))
        }
    }

    async fn revoke_node(&self, node: &str) -> Result<Response, RosterError> {
        let id: NodeId = match node.parse() {
            Ok(id) => id,
            Err(error) => return Ok(Response::error(format!("{node} is no id of a node: {error}"))),
        };
        let revoked = self.gate.revoke_node(id.clone()).await?;
        if revoked.is_some()
            && let Err(error) = self.registry.forget(id).await
        {
            // It cannot renew its lease, so that ends by itself.
            warn!(%error, node, "the lease of a revoked node could not be ended");
        }
        match revoked {
            Some(open_tokens) => Ok(Response::Revoked(Revoked { revoked: node.to_owned(), open_tokens })),
            None => Ok(said(
                &format!("{node} has no certificate that counts"),
                "ids are those of `vmcast node list`; who was revoked is out already",
            )),
        }
    }
}

/// What a node may be.
const fn of_node(role: Role) -> Option<identity::Role> {
    match role {
        Role::Router => Some(identity::Role::Router),
        Role::Agent => Some(identity::Role::Agent),
        Role::Admin => None,
    }
}

fn said(error: &str, hint: &str) -> Response {
    Response::Error(ErrorReply { error: error.to_owned(), hint: Some(hint.to_owned()) })
}

fn token(entry: identity::TokenEntry, now: UnixMillis) -> Token {
    Token {
        id: entry.id,
        role: match entry.role {
            identity::Role::Router => Role::Router,
            identity::Role::Agent => Role::Agent,
        },
        name: entry.node,
        state: match entry.state {
            identity::TokenState::Open => TokenState::Open,
            identity::TokenState::Used => TokenState::Used,
            identity::TokenState::Expired => TokenState::Expired,
            identity::TokenState::Revoked => TokenState::Revoked,
        },
        age_ms: now.0.saturating_sub(entry.created.0),
        left_ms: entry.expires.0.saturating_sub(now.0),
        used: entry.used,
        uses_left: entry.uses_left,
    }
}
