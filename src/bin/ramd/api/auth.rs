//! Who may change something: whoever has the token, a file that only ramd's user may read.

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgraft::http::{Request, Response};

use super::envelope::Refusal;

/// A shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// A longer one is none.
const TOKEN_BYTES_MAX: usize = 1024;

/// The token of a file, which may be replaced while ramd runs.
#[derive(Clone, Debug)]
pub struct Token(Option<PathBuf>);

impl Token {
    /// The one in this file; `None`: nobody may change anything. `Err`: the file is no good.
    pub fn open(path: Option<&Path>) -> Result<Token, String> {
        if let Some(path) = path {
            read(path).map_err(|why| format!("http_token_file \"{}\": {why}", path.display()))?;
        }
        Ok(Token(path.map(Path::to_owned)))
    }

    /// Whether this request may change something; `Err`: the answer that says why not.
    pub fn check(&self, request: &Request) -> Result<(), Response> {
        let Some(path) = &self.0 else {
            let refusal = Refusal::new(403, "no_token", "this ramd carries out no changes")
                .hint("Set http_token_file in ramd.conf to a file with a secret token.");
            return Err(refusal.response());
        };
        let token = read(path).map_err(|why| {
            log::warn!("http_token_file \"{}\": {why}", path.display());
            Refusal::new(403, "no_token", "the file of the token cannot be used")
                .hint("ramd's log says why.")
                .response()
        })?;
        let (scheme, given) =
            request.header("authorization").and_then(|value| value.split_once(' ')).unzip();
        let is_bearer = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
        let given = given.filter(|_| is_bearer).unwrap_or_default().trim();
        if is_same(given.as_bytes(), token.as_bytes()) {
            return Ok(());
        }
        let message = match given {
            "" => "this needs a token",
            _ => "the token is another one",
        };
        let refusal = Refusal::new(401, "unauthorized", message)
            .hint("Send the header \"Authorization: Bearer TOKEN\".");
        Err(refusal.response().with("WWW-Authenticate", "Bearer"))
    }
}

/// The token in a file: its one line.
fn read(path: &Path) -> Result<String, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > TOKEN_BYTES_MAX as u64 {
        return Err("it is no file with a token".to_owned());
    }
    if meta.mode() & 0o077 != 0 {
        return Err("others may read it; its permissions must be 0600 or less".to_owned());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "a token is one line of at least {TOKEN_BYTES_MIN} visible ASCII characters"
        ));
    }
    Ok(token.to_owned())
}

/// Whether both are the same, in a time that tells only how long `given` is.
fn is_same(given: &[u8], secret: &[u8]) -> bool {
    let mut difference = given.len() ^ secret.len();
    for (at, byte) in given.iter().enumerate() {
        difference |= usize::from(black_box(byte ^ secret[at % secret.len()]));
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgraft::http::{Limits, read_head};
    use std::os::unix::fs::PermissionsExt;

    fn request(header: &str) -> Request {
        let text = format!("POST /x HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        read_head(text.as_bytes(), &Limits::default()).unwrap().unwrap().request
    }

    #[test]
    fn only_the_same_bytes_are_the_same() {
        assert!(is_same(b"abc", b"abc"));
        for other in ["", "ab", "abd", "abcd", "abcabc"] {
            assert!(!is_same(other.as_bytes(), b"abc"), "{other}");
        }
    }

    #[test]
    fn a_token_opens_and_can_be_replaced() {
        let path = std::env::temp_dir().join(format!("ramd-token-{}", std::process::id()));
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("0123456789abcdef\n", 0o644);
        assert!(Token::open(Some(&path)).unwrap_err().contains("0600"));
        write("short\n", 0o600);
        assert!(Token::open(Some(&path)).is_err());
        write("0123456789abcdef\n", 0o600);
        let token = Token::open(Some(&path)).unwrap();
        let status = |header: &str| token.check(&request(header)).err().map(|no| no.status);
        assert_eq!(status("Authorization: Bearer 0123456789abcdef"), None);
        assert_eq!(status("authorization: bearer  0123456789abcdef "), None);
        for bad in [
            "A: b",
            "Authorization: 0123456789abcdef",
            "Authorization: Basic 0123456789abcdef",
            "Authorization: Bearer",
            "Authorization: Bearer 0123456789abcdeX",
            "Authorization: Bearer 0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(status(bad), Some(401), "{bad}");
        }
        write("fedcba9876543210", 0o600);
        assert_eq!(status("Authorization: Bearer 0123456789abcdef"), Some(401));
        assert_eq!(status("Authorization: Bearer fedcba9876543210"), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(status("Authorization: Bearer fedcba9876543210"), Some(403));
        let nobody = Token::open(None).unwrap();
        let no = nobody.check(&request("Authorization: Bearer 0123456789abcdef")).unwrap_err();
        assert_eq!(no.status, 403);
    }
}
