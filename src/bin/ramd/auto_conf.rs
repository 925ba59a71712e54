//! `postgresql.auto.conf`, as `ALTER SYSTEM` writes it: one `name = 'value'` a line, of which the
//! last counts. For servers that are down.

/// The value of a setting.
pub fn get(text: &str, name: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let (key, rest) = line.split_once('=')?;
        if key.trim() != name {
            return None;
        }
        let quoted = rest.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        Some(quoted.replace("''", "'").replace("\\\\", "\\"))
    })
}

/// The text with the setting changed.
pub fn set(text: &str, name: &str, value: &str) -> String {
    let is_it = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim() == name);
    let mut lines: Vec<String> =
        text.lines().filter(|line| !is_it(line)).map(str::to_owned).collect();
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    lines.push(format!("{name} = '{value}'\n"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_counts_and_quotes_are_kept() {
        let text = "# Do not edit\na = 'x'\nprimary_conninfo = 'old'\nprimary_conninfo = 'it''s'\n";
        assert_eq!(get(text, "primary_conninfo").as_deref(), Some("it's"));
        assert_eq!(get(text, "b"), None);
        for value in ["host=a passfile='/x y'", "", "back\\slash", "'"] {
            let new = set(text, "primary_conninfo", value);
            assert_eq!(get(&new, "primary_conninfo").as_deref(), Some(value));
            assert_eq!(new.matches("primary_conninfo").count(), 1);
            assert!(new.starts_with("# Do not edit\na = 'x'\n") && new.ends_with("'\n"));
        }
        assert_eq!(set("", "a", "b"), "a = 'b'\n");
    }
}
