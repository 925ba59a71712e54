//! The table, in Markdown.

/// Whether an aim was met.
#[derive(Clone, Copy)]
pub enum Met {
    /// It was, or was not.
    Is(bool),
    /// The machine's other work moves the figure by more than what lies between it and the aim.
    Unclear,
    /// There is no aim.
    NoAim,
}

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// What came out.
    pub measured: String,
    /// What was hoped for; empty where there is no aim.
    pub aim: &'static str,
    /// Whether it came out so.
    pub met: Met,
}

impl Row {
    /// A figure that is there to be known, without an aim.
    pub fn plain(figure: impl Into<String>, measured: String) -> Row {
        Row { figure: figure.into(), measured, aim: "", met: Met::NoAim }
    }

    /// A figure with an aim.
    pub fn aimed(figure: impl Into<String>, measured: String, aim: &'static str, met: bool) -> Row {
        Row { figure: figure.into(), measured, aim, met: Met::Is(met) }
    }

    /// In place of a figure that could not be measured.
    pub fn failed(name: &str) -> Row {
        Row { figure: name.to_owned(), measured: "failed".to_owned(), aim: "", met: Met::Is(false) }
    }

    fn cells(&self) -> [&str; 4] {
        let met = match self.met {
            Met::Is(true) => "yes",
            Met::Is(false) => "**no**",
            Met::Unclear => "unclear",
            Met::NoAim => "-",
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
