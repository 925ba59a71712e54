//! libpq's connection strings, `keyword = 'value'` (documentation, "Keyword/Value Connection
//! Strings"; src/interfaces/libpq/fe-connect.c, conninfo_parse), and what a standby's becomes when
//! it is to follow another server. A value may be a password: nothing here may be logged.

use crate::cluster::Address;

/// The longest that is read; Postgres itself cuts what a WAL receiver uses at 1024 bytes.
pub const CONNINFO_BYTES_MAX: usize = 8192;

/// What says which server it is, and who asks: all else is the operator's.
const OURS: [&str; 4] = ["host", "hostaddr", "port", "application_name"];

/// What nobody else may see of them. Only for `password` libpq has a variable, too.
pub const SECRETS: [&str; 5] =
    ["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

/// Why a text is no connection string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConninfoError {
    /// It is longer than [`CONNINFO_BYTES_MAX`].
    TooLong,
    /// A keyword without `=`, or none.
    NoValue,
    /// A quote is not closed.
    OpenQuote,
    /// It is a URI.
    Uri,
}

impl std::fmt::Display for ConninfoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ConninfoError::TooLong => "it is too long",
            ConninfoError::NoValue => "a keyword lacks its value",
            ConninfoError::OpenQuote => "a quote is not closed",
            ConninfoError::Uri => "it is a URI; write keyword = value instead",
        })
    }
}

/// Keywords and their values, in the order written; a later one for the same keyword counts.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        if text.len() > CONNINFO_BYTES_MAX {
            return Err(ConninfoError::TooLong);
        }
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return Err(ConninfoError::Uri);
        }
        let mut pairs = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            let (keyword, after) = rest.split_once('=').ok_or(ConninfoError::NoValue)?;
            let keyword = keyword.trim_end_matches(is_space);
            if keyword.is_empty() || keyword.contains(is_space) {
                return Err(ConninfoError::NoValue);
            }
            let (value, after) = value(after.trim_start_matches(is_space))?;
            pairs.push((keyword.to_owned(), value));
            rest = after.trim_start_matches(is_space);
        }
        Ok(Conninfo(pairs))
    }

    /// Without what says which server it is: what stays the same at each failover.
    pub fn base(&self) -> Conninfo {
        let others = self.0.iter().filter(|(keyword, _)| !OURS.contains(&keyword.as_str()));
        Conninfo(others.cloned().collect())
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a keyword; an empty one is none to libpq.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        let value = self.0.iter().rfind(|(known, _)| known == keyword);
        value.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Without these keywords.
    pub fn without(mut self, keywords: &[&str]) -> Conninfo {
        self.0.retain(|(keyword, _)| !keywords.contains(&keyword.as_str()));
        self
    }

    /// With this value for a keyword, in the place of any other.
    pub fn with(self, keyword: &str, value: &str) -> Conninfo {
        let mut new = self.without(&[keyword]);
        new.0.push((keyword.to_owned(), value.to_owned()));
        new
    }

    /// Of a standby called `name` to the server at `address`, the rest as here.
    pub fn to(&self, address: &Address, name: &str) -> Conninfo {
        let own = [
            ("host", address.host().to_owned()),
            ("port", address.port().to_string()),
            ("application_name", name.to_owned()),
        ];
        let own = own.into_iter().map(|(keyword, value)| (keyword.to_owned(), value));
        Conninfo(own.chain(self.base().0).collect())
    }
}

/// libpq goes by C's isspace.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The value that the text begins with, and what follows it.
fn value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |rest| (true, rest));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            // The character after it, whatever it is; at the end of all it stands for nothing.
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && is_space(c) => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(ConninfoError::OpenQuote) } else { Ok((value, "")) }
}

impl std::fmt::Display for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (keyword, value)) in self.0.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/%@,+".contains(c);
            if !value.is_empty() && value.chars().all(plain) {
                write!(f, "{space}{keyword}={value}")?;
            } else {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                write!(f, "{space}{keyword}='{value}'")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Conninfo::parse(text).unwrap().0
    }

    #[test]
    fn it_is_read_as_libpq_reads_it() {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        assert_eq!(pairs(""), own(&[]));
        assert_eq!(pairs("  \n"), own(&[]));
        assert_eq!(pairs("host=a port = 5432"), own(&[("host", "a"), ("port", "5432")]));
        assert_eq!(pairs("password='it\\'s \\\\ mine'"), own(&[("password", "it's \\ mine")]));
        assert_eq!(pairs("a='' b=c"), own(&[("a", ""), ("b", "c")]));
        // libpq wants no space after a closing quote, and an unquoted value may be empty.
        assert_eq!(pairs("a='x'b=y"), own(&[("a", "x"), ("b", "y")]));
        assert_eq!(pairs("a=x\\ y"), own(&[("a", "x y")]));
        assert_eq!(pairs("a="), own(&[("a", "")]));
        assert_eq!(pairs("options=-c\\ work_mem=1"), own(&[("options", "-c work_mem=1")]));
        assert_eq!(pairs("a=x\\"), own(&[("a", "x")]));
    }

    #[test]
    fn what_is_none_is_refused() {
        let error = |text: &str| Conninfo::parse(text).err();
        assert_eq!(error("host"), Some(ConninfoError::NoValue));
        assert_eq!(error("a b=c"), Some(ConninfoError::NoValue));
        assert_eq!(error("=c"), Some(ConninfoError::NoValue));
        assert_eq!(error("a='c"), Some(ConninfoError::OpenQuote));
        assert_eq!(error("a='c\\'"), Some(ConninfoError::OpenQuote));
        assert_eq!(error("postgresql://host/db"), Some(ConninfoError::Uri));
        assert_eq!(error(&"a=b ".repeat(4000)), Some(ConninfoError::TooLong));
    }

    #[test]
    fn another_primary_changes_the_place_and_keeps_the_rest() {
        let base = "user=rep host=old hostaddr=10.0.0.1 port=1 application_name=x passfile='/a b'";
        let new = Address::new("db2.example.net", 5433).unwrap();
        let text = Conninfo::parse(base).unwrap().to(&new, "pgraft_3").to_string();
        assert_eq!(
            text,
            "host=db2.example.net port=5433 application_name=pgraft_3 user=rep passfile='/a b'"
        );
        let again = Conninfo::parse(&text).unwrap().to(&new, "pgraft_3").to_string();
        assert_eq!(again, text, "it stays as it is");
    }

    #[test]
    fn what_is_secret_can_be_taken_out_and_another_user_put_in() {
        let text = "user=rep password=a password='b c' sslpassword=d sslmode=require";
        let info = Conninfo::parse(text).unwrap();
        // Of two the later one counts.
        assert_eq!((info.get("password"), info.get("passfile")), (Some("b c"), None));
        let open = info.without(&SECRETS).with("user", "ramd").with("dbname", "it's");
        assert_eq!(open.to_string(), "sslmode=require user=ramd dbname='it\\'s'");
        assert_eq!(Conninfo::parse("password=''").unwrap().get("password"), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = Conninfo::parse(&text);
        }

        #[test]
        fn quotes_and_spaces_never_panic(text in "[ab= '\\\\\n]{0,40}") {
            if let Ok(read) = Conninfo::parse(&text) {
                prop_assert!(Conninfo::parse(&read.to_string()) == Ok(read));
            }
        }

        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec(".{0,20}", 0..5)) {
            let pairs = values.into_iter().enumerate().map(|(n, v)| (format!("k{n}"), v));
            let info = Conninfo(pairs.collect());
            prop_assert!(Conninfo::parse(&info.to_string()) == Ok(info));
        }
    }

    impl std::fmt::Debug for Conninfo {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(f)
        }
    }
}
