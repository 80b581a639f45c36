//! The asking side, blocking.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::policy::{Policy, PolicyQuestion, PolicyVerdict};
use crate::{
    CacheEntries, DecodeError, Drained, ErrorReply, Groups, Interfaces, Members, NewCertificate, NewToken,
    Nodes, Page, Request, Response, Revoked, SigningOrder, Sources, Stats, Status, TokenOrder, Tokens,
    Tunnels, decode, encode,
};

/// Longest response that a client takes, in bytes.
pub const MAX_RESPONSE_BYTES: u64 = 16 * 1024 * 1024;

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers at the socket.
    #[error("no daemon answers at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection broke, or the daemon did not answer in time.
    #[error("lost the daemon at {path}: {source}")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer is longer than [`MAX_RESPONSE_BYTES`].
    #[error("the answer is longer than {MAX_RESPONSE_BYTES} bytes")]
    TooLong,
    /// The answer is not understood.
    #[error("the daemon's answer is not understood: {0}")]
    Decode(#[from] DecodeError),
    /// The daemon answered with an error.
    #[error("{}", .0.error)]
    Refused(ErrorReply),
    /// The answer belongs to another question.
    #[error("the daemon answered {0} with something else")]
    Mismatch(&'static str),
}

impl Client {
    /// Connects to the socket of a daemon.
    ///
    /// # Errors
    /// If no daemon answers there.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the connection breaks or the answer is not understood. That the daemon answers with
    /// [`Response::Error`] is [`ClientError::Refused`].
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        let lost = |source| ClientError::Lost { path: self.path.clone(), source };
        // A daemon that turns a client away does so before it reads; its reason still waits here.
        let sent = self.stream.get_mut().write_all(&encode(request));
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_RESPONSE_BYTES + 1).read_until(b'\n', &mut line);
        if line.is_empty() {
            sent.map_err(lost)?;
        }
        read.map_err(lost)?;
        if line.is_empty() {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if line.len() as u64 > MAX_RESPONSE_BYTES {
            return Err(ClientError::TooLong);
        }
        match decode(&line)? {
            Response::Error(reply) => Err(ClientError::Refused(reply)),
            response @ (Response::Status(_)
            | Response::Groups(_)
            | Response::Members(_)
            | Response::Tunnels(_)
            | Response::Sources(_)
            | Response::Interfaces(_)
            | Response::Stats(_)
            | Response::Nodes(_)
            | Response::Drained(_)
            | Response::Cache(_)
            | Response::NewToken(_)
            | Response::NewCertificate(_)
            | Response::Tokens(_)
            | Response::Revoked(_)
            | Response::Policy(_)
            | Response::PolicyVerdict(_)) => Ok(response),
        }
    }

    /// Who the daemon is and how it is doing.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.call(&Request::Status)? {
            Response::Status(status) => Ok(status),
            _ => Err(mismatch(&Request::Status)),
        }
    }

    /// The counters.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        match self.call(&Request::Stats)? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(mismatch(&Request::Stats)),
        }
    }

    /// The interfaces in use.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn interfaces(&mut self) -> Result<Interfaces, ClientError> {
        match self.call(&Request::InterfaceList)? {
            Response::Interfaces(interfaces) => Ok(interfaces),
            _ => Err(mismatch(&Request::InterfaceList)),
        }
    }

    /// Every source whose relays are looked up, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn sources(&mut self) -> Result<Sources, ClientError> {
        let sources = self.pages(
            |page| Request::SourceList { page },
            |response| match response {
                Response::Sources(Sources { next, sources }) => Some((sources, next)),
                _ => None,
            },
        )?;
        Ok(Sources { next: None, sources })
    }

    /// Every stream, or those of one group or one source of it, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn groups(&mut self, group: Option<IpAddr>, source: Option<IpAddr>) -> Result<Groups, ClientError> {
        let groups = self.pages(
            |page| Request::GroupList { group, source, page },
            |response| match response {
                Response::Groups(Groups { next, groups }) => Some((groups, next)),
                _ => None,
            },
        )?;
        Ok(Groups { next: None, groups })
    }

    /// Every member, or those of one group, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn members(&mut self, group: Option<IpAddr>) -> Result<Members, ClientError> {
        let members = self.pages(
            |page| Request::MemberList { group, page },
            |response| match response {
                Response::Members(Members { next, members }) => Some((members, next)),
                _ => None,
            },
        )?;
        Ok(Members { next: None, members })
    }

    /// Every tunnel, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn tunnels(&mut self) -> Result<Tunnels, ClientError> {
        let tunnels = self.pages(
            |page| Request::TunnelList { page },
            |response| match response {
                Response::Tunnels(Tunnels { next, tunnels }) => Some((tunnels, next)),
                _ => None,
            },
        )?;
        Ok(Tunnels { next: None, tunnels })
    }

    /// Every registered node, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn nodes(&mut self) -> Result<Nodes, ClientError> {
        let nodes = self.pages(
            |page| Request::NodeList { page },
            |response| match response {
                Response::Nodes(Nodes { next, nodes }) => Some((nodes, next)),
                _ => None,
            },
        )?;
        Ok(Nodes { next: None, nodes })
    }

    /// Takes a router out of service, or back in.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn drain(&mut self, node: &str, drain: bool) -> Result<Drained, ClientError> {
        let request = Request::NodeDrain { node: node.to_owned(), drain };
        match self.call(&request)? {
            Response::Drained(drained) => Ok(drained),
            _ => Err(mismatch(&request)),
        }
    }

    /// The whole cache of nearest VMRs, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn cache(&mut self) -> Result<CacheEntries, ClientError> {
        let entries = self.pages(
            |page| Request::CacheList { page },
            |response| match response {
                Response::Cache(CacheEntries { next, entries }) => Some((entries, next)),
                _ => None,
            },
        )?;
        Ok(CacheEntries { next: None, entries })
    }

    /// Every join token, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn tokens(&mut self) -> Result<Tokens, ClientError> {
        let tokens = self.pages(
            |page| Request::TokenList { page },
            |response| match response {
                Response::Tokens(Tokens { next, tokens }) => Some((tokens, next)),
                _ => None,
            },
        )?;
        Ok(Tokens { next: None, tokens })
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn create_token(&mut self, order: TokenOrder) -> Result<NewToken, ClientError> {
        let request = Request::TokenCreate { order };
        match self.call(&request)? {
            Response::NewToken(token) => Ok(token),
            _ => Err(mismatch(&request)),
        }
    }

    /// Has the certificate of a node signed.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn sign(&mut self, order: SigningOrder) -> Result<NewCertificate, ClientError> {
        let request = Request::NodeSign { order };
        match self.call(&request)? {
            Response::NewCertificate(certificate) => Ok(certificate),
            _ => Err(mismatch(&request)),
        }
    }

    /// Takes back a token, or what a node has: a [`Request::TokenRevoke`] or [`Request::NodeRevoke`].
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn revoke(&mut self, request: &Request) -> Result<Revoked, ClientError> {
        match self.call(request)? {
            Response::Revoked(revoked) => Ok(revoked),
            _ => Err(mismatch(request)),
        }
    }

    /// Asks for the policy or changes it, and returns what it is then.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn policy(&mut self, request: &Request) -> Result<Policy, ClientError> {
        match self.call(request)? {
            Response::Policy(policy) => Ok(policy),
            _ => Err(mismatch(request)),
        }
    }

    /// Asks what the policy would say.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn policy_test(&mut self, question: PolicyQuestion) -> Result<PolicyVerdict, ClientError> {
        let request = Request::PolicyTest { question };
        match self.call(&request)? {
            Response::PolicyVerdict(verdict) => Ok(verdict),
            _ => Err(mismatch(&request)),
        }
    }

    fn pages<T>(
        &mut self,
        ask: impl Fn(Page) -> Request,
        mut open: impl FnMut(Response) -> Option<(Vec<T>, Option<String>)>,
    ) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        let mut page = Page::default();
        loop {
            let request = ask(page.clone());
            let (items, next) = open(self.call(&request)?).ok_or_else(|| mismatch(&request))?;
            let end = items.is_empty();
            all.extend(items);
            match next {
                Some(next) if !end => page.after = Some(next),
                Some(_) | None => return Ok(all),
            }
        }
    }
}

fn mismatch(request: &Request) -> ClientError {
    ClientError::Mismatch(request.name())
}
