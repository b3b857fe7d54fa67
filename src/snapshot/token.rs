//! The token hash: by which people see whether a restored cluster needs the token of its snapshot back (docs/k3s.md 7.4).

use super::file::short_hex;

/// What a full token begins with.
const PREFIX: &str = "K10";
/// Hex digits of the CA's SHA-256 in a full token.
const CA_HASH: usize = 64;

/// Why a text is no token of a server. It never says what the text was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It says who signed it, and nothing usable after that.
    #[error("a token should be K10<CA hash>::<user>:<password>, or a password alone")]
    Malformed,
    /// Its CA hash is of another length than a SHA-256.
    #[error("the CA hash of the token should have {CA_HASH} digits, and has {0}")]
    CaHash(usize),
    /// kubeadm's tokens let nodes join; K3s encrypts nothing with one.
    #[error("this is a bootstrap token as kubeadm makes it; the token of the servers is wanted")]
    Bootstrap,
}

/// The first twelve hex digits of the SHA-256 of the token's password, as K3s writes them; None for an empty text.
pub fn token_hash(text: &str) -> Result<Option<String>, TokenError> {
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Ok(None);
    }
    password(text).map(|password| Some(short_hex(password, 12)))
}

fn password(token: &str) -> Result<&str, TokenError> {
    let Some(rest) = token.strip_prefix(PREFIX) else {
        return if is_bootstrap(token) { Err(TokenError::Bootstrap) } else { Ok(token) };
    };
    let credentials = match rest.split_once("::") {
        Some((hash, _)) if !hash.is_empty() && hash.len() != CA_HASH => return Err(TokenError::CaHash(hash.len())),
        Some((_, credentials)) => credentials,
        None => rest,
    };
    if is_bootstrap(credentials) {
        return Err(TokenError::Bootstrap);
    }
    credentials.split_once(':').map(|(_, password)| password).ok_or(TokenError::Malformed)
}

/// Six characters, a dot, sixteen characters.
fn is_bootstrap(text: &str) -> bool {
    let is_part = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(id, secret)| is_part(id, 6) && is_part(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_the_password_alone() {
        let hash = Ok(Some("9f86d081884c".to_string()));
        let full = format!("K10{}::server:test", "a".repeat(64));
        for text in ["test", "test\n", "test\r\n", "K10::server:test", "K10server:test", "K10:::test", &full] {
            assert_eq!(token_hash(text), hash, "{text}");
        }
        assert_eq!(token_hash("a::b:c"), Ok(Some(short_hex("a::b:c", 12))), "a password alone may have colons");
        assert_eq!(token_hash("K10::u:a:b"), Ok(Some(short_hex("a:b", 12))));
        assert_eq!((token_hash(""), token_hash("\n")), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_is_no_token_of_a_server_is_refused_without_being_shown() {
        for (text, error) in [
            ("K10abc", TokenError::Malformed),
            ("K10abc::server:x", TokenError::CaHash(3)),
            ("abcdef.0123456789abcdef", TokenError::Bootstrap),
            ("K10::abcdef.0123456789abcdef", TokenError::Bootstrap),
        ] {
            assert_eq!(token_hash(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("abc"), "{error}");
        }
        assert!(token_hash("abcdef.0123456789ABCDEF").is_ok(), "no bootstrap token has capitals");
    }
}
