//! The admins that a node knows, and a channel to each.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use vmcast_signal::{
    tonic::transport::{Channel, Endpoint},
    v1::registry_client::RegistryClient,
};

use super::{
    connect::{CONNECT_TIMEOUT, Connector, Credentials},
    error::AdminError,
};
use crate::{admin::MOST_ADMINS, clock, identity::NodeIdentity};

/// A connection that carries nothing is checked so often, and given up after as long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes of an answer at most: all VMRs of a large network.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Bytes of a URL that an admin names at most: a DNS name has 253.
const MAX_URL: usize = 300;

/// How long a connection of a node is kept that has nothing to say by it: what is asked in a row goes by one, and of very
/// many agents an admin has connections to the few that are asking.
const IDLE: Duration = Duration::from_secs(5);

/// The admins, and which of them answered last.
#[derive(Debug)]
pub(super) struct Admins {
    local: Option<IpAddr>,
    identity: Option<Arc<NodeIdentity>>,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    /// Those of the configuration or the token, which are never forgotten.
    stated: Vec<Arc<AdminChannel>>,
    /// Those that an admin has named beside.
    learnt: Vec<Arc<AdminChannel>>,
    current: Arc<AdminChannel>,
}

/// An admin, and the connection to it while there is one.
pub(super) struct AdminChannel {
    pub(super) url: String,
    endpoint: Endpoint,
    /// `None` in the clear.
    connector: Option<Connector>,
    open: Mutex<Option<Open>>,
    /// Whether a line of ours stands there: what else is asked goes by its connection.
    attended: AtomicBool,
}

struct Open {
    channel: Channel,
    used: Instant,
}

impl AdminChannel {
    /// The connection, which is made when it is used and goes when nobody has asked for it for a while.
    pub(super) fn channel(self: &Arc<Self>) -> Channel {
        let mut open = self.open();
        let now = clock::now();
        if let Some(open) = open.as_mut() {
            open.used = now;
            return open.channel.clone();
        }
        let channel = match &self.connector {
            Some(connector) => self.endpoint.connect_with_connector_lazy(connector.clone()),
            None => self.endpoint.connect_lazy(),
        };
        *open = Some(Open { channel: channel.clone(), used: now });
        tokio::spawn(close_when_idle(Arc::downgrade(self)));
        channel
    }

    /// Keeps the connection from now on, as a line is to stand by it.
    pub(super) fn keep(&self) {
        self.attended.store(true, Ordering::Relaxed);
    }

    /// The calls of the registry there.
    pub(super) fn client(self: &Arc<Self>) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel()).max_decoding_message_size(MAX_ANSWER)
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AdminChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminChannel").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Lets a connection go that is not used any more.
async fn close_when_idle(admin: Weak<AdminChannel>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(admin) = admin.upgrade() else { return };
        let mut open = admin.open();
        let is_idle = |open: &Open| clock::now().saturating_duration_since(open.used) >= IDLE;
        if admin.attended.load(Ordering::Relaxed) {
            return;
        }
        if open.as_ref().is_none_or(is_idle) {
            *open = None;
            return;
        }
    }
}

impl Admins {
    /// The admins at some URLs, in their order.
    ///
    /// # Errors
    /// If there is no URL or one cannot be read.
    pub(super) fn new(
        urls: &[String],
        local: Option<IpAddr>,
        identity: Option<&Arc<NodeIdentity>>,
    ) -> Result<Self, AdminError> {
        let stated = urls.iter().map(|url| open(url, local, identity).map(Arc::new));
        let stated = stated.collect::<Result<Vec<_>, _>>()?;
        let current = Arc::clone(stated.first().ok_or(AdminError::NoAdmin)?);
        let list = List { stated, learnt: Vec::new(), current };
        let admins = Self { local, identity: identity.cloned(), list: Mutex::new(list) };
        if let Some(identity) = identity {
            // Those that another process has heard of: whichever of all is there will say which are now.
            let before = identity.learnt_admins();
            if !before.is_empty() {
                admins.take(&before);
            }
        }
        Ok(admins)
    }

    /// Whether the certificate of this node is in its time, by the clock of this host.
    pub(super) fn is_in_time(&self) -> bool {
        let now = clock::unix_millis();
        self.identity.as_ref().is_some_and(|identity| identity.certified().expires.0 > now)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Each change of it is whole before anything can panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that answered last, the first before any has.
    pub(super) fn current(&self) -> Arc<AdminChannel> {
        Arc::clone(&self.list().current)
    }

    /// All of them, in the order in which they are to be tried: from the one that answered last on.
    pub(super) fn in_turn(&self) -> Vec<Arc<AdminChannel>> {
        let list = self.list();
        let mut all: Vec<_> = list.stated.iter().chain(&list.learnt).cloned().collect();
        match all.iter().position(|admin| Arc::ptr_eq(admin, &list.current)) {
            Some(place) => all.rotate_left(place),
            // It is no longer named, but it answers.
            None => all.insert(0, Arc::clone(&list.current)),
        }
        all
    }

    /// An admin has answered, whatever it said.
    pub(super) fn answered(&self, admin: &Arc<AdminChannel>) {
        self.list().current = Arc::clone(admin);
    }

    /// Takes the list of an admin in place of the one before; an empty one says nothing. Without TLS nobody knows who
    /// has written it, and it is left aside. What it names is another admin only if its certificate, which the same
    /// authority must have signed, is for that name.
    pub(super) fn learn(&self, urls: &[String]) {
        let Some(identity) = self.identity.as_ref().filter(|_| !urls.is_empty()) else { return };
        if let Some(learnt) = self.take(urls) {
            info!(admins = ?learnt, "other admins, as the present one names them");
            if let Err(error) = identity.keep_learnt_admins(&learnt) {
                warn!(%error, "the admins that the present one names cannot be kept for the next start");
            }
        }
    }

    /// Takes a list in place of the one before; says which others there are beside the stated ones, if they are others
    /// than before.
    fn take(&self, urls: &[String]) -> Option<Vec<String>> {
        let mut list = self.list();
        let mut learnt: Vec<Arc<AdminChannel>> = Vec::new();
        for url in urls.iter().take(MOST_ADMINS) {
            let url = url.strip_suffix('/').unwrap_or(url);
            let is = |admin: &&Arc<AdminChannel>| admin.url.strip_suffix('/').unwrap_or(&admin.url) == url;
            if list.stated.iter().chain(&learnt).any(|admin| is(&admin)) {
                continue;
            }
            let known = list.learnt.iter().chain([&list.current]).find(is).cloned();
            match known.map_or_else(|| self.open_named(url).map(Arc::new), Ok) {
                Ok(admin) => learnt.push(admin),
                Err(error) => debug!(%error, "an admin is named by what is no URL of one"),
            }
        }
        let names = |admins: &[Arc<AdminChannel>]| -> Vec<String> {
            admins.iter().map(|admin| admin.url.clone()).collect()
        };
        let (before, now) = (names(&list.learnt), names(&learnt));
        list.learnt = learnt;
        (before != now).then_some(now)
    }

    /// A channel to an admin that another has named.
    fn open_named(&self, url: &str) -> Result<AdminChannel, AdminError> {
        let bad = |reason: &str| Err(AdminError::Url { url: url.to_owned(), reason: reason.to_owned() });
        if url.len() > MAX_URL || url.chars().any(char::is_control) {
            return bad("it is too long, or has control characters");
        }
        let Some(authority) = url.strip_prefix("https://") else {
            return bad("expected https://host:port");
        };
        if authority.contains(['/', '?', '#', '@']) {
            return bad("expected https://host:port and nothing more");
        }
        open(url, self.local, self.identity.as_ref())
    }
}

fn open(
    url: &str,
    local: Option<IpAddr>,
    identity: Option<&Arc<NodeIdentity>>,
) -> Result<AdminChannel, AdminError> {
    let bad = |reason: &dyn Display| AdminError::Url { url: url.to_owned(), reason: reason.to_string() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(&error))?;
    if endpoint.uri().host().is_none() {
        return Err(bad(&"expected https://host:port"));
    }
    let scheme = endpoint.uri().scheme_str().unwrap_or_default().to_owned();
    let endpoint = endpoint
        .local_address(local)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let connector = match (scheme.as_str(), identity) {
        ("https", Some(identity)) => {
            let credentials = Credentials::Node(Arc::clone(identity));
            Some(Connector { local, credentials })
        }
        ("https", None) => {
            return Err(bad(&"this node has no certificate yet: join with a token, by --token"));
        }
        ("http", None) => None,
        ("http", Some(_)) => return Err(bad(&"a node that has a certificate speaks only https")),
        _ => return Err(bad(&"expected https://host:port")),
    };
    Ok(AdminChannel {
        url: url.to_owned(),
        endpoint,
        connector,
        open: Mutex::default(),
        attended: AtomicBool::new(false),
    })
}
