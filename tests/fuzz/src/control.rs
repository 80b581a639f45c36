use serde::{Serialize, de::DeserializeOwned};
use vmcast_api::{Page, Request, Response, Role, decode, encode};

/// Lines of the control socket, as a daemon and as a command reads them.
pub fn control(data: &[u8]) {
    if let Some(request) = check::<Request>(data) {
        for role in Role::ALL {
            check::<Response>(&encode(&Response::not_this_role(role, &request)));
        }
        match &request {
            Request::GroupList { page, .. }
            | Request::MemberList { page, .. }
            | Request::TunnelList { page }
            | Request::SourceList { page }
            | Request::NodeList { page }
            | Request::TokenList { page }
            | Request::CacheList { page } => cut(page),
            Request::Status
            | Request::InterfaceList
            | Request::Stats
            | Request::NodeDrain { .. }
            | Request::TokenCreate { .. }
            | Request::TokenRevoke { .. }
            | Request::NodeRevoke { .. }
            | Request::NodeSign { .. }
            | Request::PolicyList
            | Request::PolicyAdd { .. }
            | Request::PolicyRemove { .. }
            | Request::PolicyDefault { .. }
            | Request::PolicyTest { .. } => {}
        }
    }
    check::<Response>(data);
}

/// Reads a line. What can be read is one line when it is written, and reads the same; what cannot is
/// explained in one line.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(line: &[u8]) -> Option<T> {
    match decode::<T>(line) {
        Ok(body) => {
            let again = encode(&body);
            assert_eq!(again.iter().position(|byte| *byte == b'\n'), Some(again.len() - 1));
            assert_eq!(decode::<T>(&again).expect("what is written can be read"), body);
            Some(body)
        }
        Err(error) => {
            let response = Response::error(error.to_string());
            assert_eq!(decode::<Response>(&encode(&response)).expect("a sound answer"), response);
            None
        }
    }
}

/// A page of a list is a part of it, whatever was asked for, and the next one goes on behind it.
fn cut(page: &Page) {
    let list = 0..2500_usize;
    let (items, next) = page.cut(list.clone(), |item| item);
    assert!(items.len() <= page.limit());
    assert!(items.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(next.is_some(), items.last().is_some_and(|last| last + 1 < list.end));
    let (behind, _) = Page { after: next.clone(), ..page.clone() }.cut(list, |item| item);
    if next.is_some() {
        assert_eq!(behind.first(), items.last().map(|last| last + 1).as_ref());
    }
}
