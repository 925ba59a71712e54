//! The table, in Markdown.

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// What came out.
    pub measured: String,
    /// What was hoped for; empty where there is no aim.
    pub aim: &'static str,
    /// Whether it came out so; `None` where there is no aim.
    pub met: Option<bool>,
}

impl Row {
    /// A figure that is there to be known, without an aim.
    pub fn plain(figure: impl Into<String>, measured: String) -> Row {
        Row { figure: figure.into(), measured, aim: "", met: None }
    }

    /// A figure with an aim.
    pub fn aimed(figure: impl Into<String>, measured: String, aim: &'static str, met: bool) -> Row {
        Row { figure: figure.into(), measured, aim, met: Some(met) }
    }

    /// In place of a figure that could not be measured.
    pub fn failed(name: &str) -> Row {
        Row { figure: name.to_owned(), measured: "failed".to_owned(), aim: "", met: Some(false) }
    }

    fn cells(&self) -> [&str; 4] {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let aim = if self.aim.is_empty() { "-" } else { self.aim };
        [&self.figure, &self.measured, aim, met]
    }
}

/// All lines, with columns that are aligned for those who read it as text.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![["Figure", "Measured", "Aim", "Met"]];
    lines.extend(rows.iter().map(Row::cells));
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let rule = widths.map(|width| "-".repeat(width));
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&one_line(line, &widths));
        if number == 0 {
            text.push_str(&one_line(&rule.each_ref().map(String::as_str), &widths));
        }
    }
    text
}

fn one_line(cells: &[&str; 4], widths: &[usize; 4]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
    format!("| {} |\n", padded.join(" | "))
}
