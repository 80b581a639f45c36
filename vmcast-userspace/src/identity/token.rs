//! A join token as it is handed to a person: one word that says where the admins are, who they are, and that its
//! bearer may come in.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::Fingerprint;

/// What every token begins with; another format gets another beginning.
const BEGINNING: &str = "vmcast1_";
/// Characters of a token at most.
const MAX_LENGTH: usize = 4096;

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// URLs of the admins, in the order to try them.
    #[serde(rename = "u")]
    pub admins: Vec<String>,
    /// The fingerprint of the authority's certificate.
    #[serde(rename = "f")]
    pub fingerprint: Fingerprint,
    /// Names the token in lists; no secret.
    #[serde(rename = "i")]
    pub id: String,
    /// What its bearer proves to have it by, in hexadecimal.
    #[serde(rename = "s")]
    pub secret: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("admins", &self.admins)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).expect("plain data serializes");
        write!(f, "{BEGINNING}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

/// The text is no join token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: {0}; copy the whole word that `vmcast node token create` printed")]
pub struct NoToken(&'static str);

impl FromStr for JoinToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(NoToken("it is too long"));
        }
        let body = text.strip_prefix(BEGINNING).ok_or(NoToken("it does not begin with vmcast1_"))?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| NoToken("a character is wrong or the end is missing"))?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| NoToken("a part is missing"))?;
        if token.admins.is_empty() { Err(NoToken("it names no admin")) } else { Ok(token) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            admins: vec!["https://192.0.2.1:8443".into()],
            fingerprint: Fingerprint::of(b"a certificate"),
            id: "0123456789abcdef".into(),
            secret: "00112233445566778899aabbccddeeff".into(),
        }
    }

    #[test]
    fn a_token_is_one_word_that_reads_back_and_hides_its_secret_from_logs() {
        let text = token().to_string();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{text}");
        assert_eq!(format!("\n{text} ").parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("0011"));
        for cut in [0, 3, 8, 20, text.len() - 1] {
            assert!(text[..cut].parse::<JoinToken>().is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{BEGINNING}{}", URL_SAFE_NO_PAD.encode(body)).parse::<JoinToken>();
        }
    }
}
