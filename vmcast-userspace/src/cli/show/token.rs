//! Join tokens.

use vmcast_api::{NewCertificate, NewToken, Revoked, Role, TokenState, Tokens};

use super::{
    table::Rows,
    unit::{NONE, duration},
};

/// `vmcast node token create`.
pub(crate) fn new_token(token: &NewToken) -> String {
    let command = match token.role {
        Role::Router => "vmcast router --config FILE --token",
        Role::Agent | Role::Admin => "vmcast agent --token",
    };
    let uses = match token.uses {
        1 => "once".to_owned(),
        uses => format!("by {uses} nodes"),
    };
    format!(
        "{}\n\nToken {}, good for {}, {uses}; it is not shown again. On the new node, which reaches this admin at {}:\n  \
         {command} TOKEN\n",
        token.token,
        token.id,
        duration(token.left_ms),
        token.urls.join(", ")
    )
}

/// `vmcast node sign`: text before the first line of PEM is for people (RFC 7468), so all of it may go to a file.
pub(crate) fn new_certificate(certificate: &NewCertificate) -> String {
    let NewCertificate { node, role, serial, left_ms, chain } = certificate;
    let command = match role {
        Role::Router => "vmcast router --config FILE",
        Role::Agent | Role::Admin => "vmcast agent --admin URL",
    };
    format!(
        "{node}, {}; serial number {serial}, good for {}. Where its key is:\n  \
         {command} --certificate THIS_FILE --key KEY_FILE\n{chain}",
        role.label(),
        duration(*left_ms)
    )
}

/// `vmcast node token list`.
pub(crate) fn tokens(tokens: &Tokens) -> String {
    if tokens.tokens.is_empty() {
        return "No join tokens. `vmcast node token create --role agent` makes one.\n".to_owned();
    }
    let mut rows = Rows::new(&["TOKEN", "ROLE", "ONLY FOR", "STATE", "MADE", ">LEFT", ">USED", ">USES LEFT"]);
    for token in &tokens.tokens {
        let state = match token.state {
            TokenState::Open => "open",
            TokenState::Used => "used",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        rows.row([
            token.id.clone(),
            token.role.label().to_owned(),
            token.name.clone().unwrap_or_else(|| NONE.to_owned()),
            state.to_owned(),
            format!("{} ago", duration(token.age_ms)),
            duration(token.left_ms),
            token.used.to_string(),
            token.uses_left.to_string(),
        ]);
    }
    rows.text(0)
}

/// `vmcast node revoke` and `vmcast node token revoke`.
pub(crate) fn revoked(revoked: &Revoked) -> String {
    let mut text = format!("{} is revoked.\n", revoked.revoked);
    if !revoked.open_tokens.is_empty() {
        text.push_str(&format!(
            "It joined by a token that is still open, and may join by it under another name; \
             `vmcast node token revoke` takes it back: {}\n",
            revoked.open_tokens.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use vmcast_api::Token;

    use super::*;

    #[test]
    fn a_new_token_stands_alone_on_its_line_and_says_what_to_do() {
        let token = NewToken {
            id: "0123456789abcdef".into(),
            token: "vmcast1_abc".into(),
            urls: vec!["https://192.0.2.2:8443".into()],
            role: Role::Agent,
            left_ms: 3_600_000,
            uses: 1,
        };
        let text = new_token(&token);
        assert!(text.starts_with("vmcast1_abc\n\n"), "{text}");
        assert!(
            text.contains("good for 1h00m, once") && text.ends_with("vmcast agent --token TOKEN\n"),
            "{text}"
        );
    }

    #[test]
    fn a_new_certificate_is_a_file_that_says_what_it_is() {
        let certificate = NewCertificate {
            node: "core".into(),
            role: Role::Router,
            serial: "4a".into(),
            left_ms: 86_400_000,
            chain: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        let text = new_certificate(&certificate);
        assert!(text.starts_with("core, router; serial number 4a, good for 1d"), "{text}");
        assert!(text.contains("\n  vmcast router --config FILE --certificate"), "{text}");
        assert!(text.ends_with("KEY_FILE\n-----BEGIN CERTIFICATE-----\n"), "{text}");
    }

    #[test]
    fn a_token_in_the_list_is_as_long_as_a_line() {
        let token = Token {
            id: "0123456789abcdef".into(),
            role: Role::Router,
            name: None,
            state: TokenState::Used,
            age_ms: 60_000,
            left_ms: 0,
            used: 1,
            uses_left: 0,
        };
        let text = tokens(&Tokens { next: None, tokens: vec![token] });
        assert!(text.lines().count() == 2 && text.contains("router") && text.contains("used"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
