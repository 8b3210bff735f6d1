//! `reference/command-line.md`: the commands and their options, generated from the program's own
//! definition.

use clap::{Arg, ArgAction, Command, CommandFactory};
use cloudflare_images_webhook::cli::Cli;
use cloudflare_images_webhook::shutdown::ExitReason;

use crate::generated::{check, code, plain, row, rows_of_table, table};
use crate::pages::read;

pub(crate) const PAGE: &str = "docs/src/reference/command-line.md";

/// Collects the commands that do something, each with the words that a user types.
fn collect<'a>(command: &'a Command, path: &str, commands: &mut Vec<(String, &'a Command)>) {
    let mut is_group = false;
    for subcommand in visible_subcommands(command) {
        let path = format!("{path} {}", subcommand.get_name());
        collect(subcommand, path.trim(), commands);
        is_group = true;
    }
    if !is_group {
        commands.push((path.to_owned(), command));
    }
}

/// Writes the section of a command.
fn section(path: &str, command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let rows: Vec<String> = command.get_arguments().filter_map(argument_row).collect();
    let arguments = match rows.as_slice() {
        [] => String::new(),
        rows => format!("{}\n", table(&["argument", "default", "meaning"], rows)),
    };
    format!(
        "## {path}\n\n{}.\n\n```text,usage\n{usage}\n```\n\n{arguments}",
        about(command)
    )
}

fn visible_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    let subcommands = command.get_subcommands();
    subcommands.filter(|command| command.get_name() != "help" && !command.is_hide_set())
}

fn about(command: &Command) -> String {
    let about = command.get_about().expect("a command has a description");
    plain(about.to_string().trim_end_matches('.'))
}

/// Writes the row of an argument. Arguments that all commands share have none.
fn argument_row(argument: &Arg) -> Option<String> {
    if argument.is_global_set() || argument.is_hide_set() || argument.get_id() == "help" {
        return None;
    }
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let (meaning, default) = match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), plain(default.trim_end_matches(']'))),
        None => (help, default_of(argument)),
    };
    let meaning = format!("{}{}", plain(&meaning), possible_values(argument));
    Some(row(&[&code(&syntax(argument)), &default, &meaning]))
}

fn default_of(argument: &Arg) -> String {
    let defaults = argument.get_default_values().iter();
    let defaults: Vec<String> = defaults
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    match defaults.join(" ") {
        _ if argument.get_action().takes_values() && argument.is_required_set() => {
            "(required)".to_owned()
        }
        text if text.is_empty() || !argument.get_action().takes_values() => String::new(),
        text => code(&text),
    }
}

fn syntax(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let name = names.first().map_or_else(
        || argument.get_id().as_str().to_uppercase(),
        ToString::to_string,
    );
    match argument.get_long() {
        None if argument.is_required_set() => format!("<{name}>"),
        None => format!("[{name}]"),
        Some(long) if argument.get_action().takes_values() => {
            let dots = if matches!(argument.get_action(), ArgAction::Append) {
                "…"
            } else {
                ""
            };
            format!("--{long} <{name}>{dots}")
        }
        Some(long) => format!("--{long}"),
    }
}

/// Lists the values that an argument takes, each with its meaning if it has one.
fn possible_values(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return String::new();
    }
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| match value.get_help() {
            Some(help) => format!("{} ({})", code(value.get_name()), plain(&help.to_string())),
            None => code(value.get_name()),
        })
        .collect();
    if values.is_empty() {
        return String::new();
    }
    format!(". One of {}", values.join(", "))
}

#[test]
fn page_lists_every_command() {
    let mut command = Cli::command();
    command.build();
    let mut commands = Vec::new();
    collect(&command, "", &mut commands);
    let overview: Vec<String> = commands
        .iter()
        .map(|(path, command)| {
            let link = format!("[{}](#{})", code(path), path.replace(' ', "-"));
            row(&[&link, &about(command)])
        })
        .collect();
    let overview = table(&["command", "effect"], &overview);
    let sections: Vec<String> = commands
        .iter()
        .map(|(path, command)| section(path, command))
        .collect();

    assert!(commands.len() > 15, "the commands were found");
    check(
        PAGE,
        &format!("## Commands\n\n{overview}\n{}", sections.concat()),
    );
}

#[test]
fn page_lists_every_exit_code() {
    let rows = rows_of_table(&read(PAGE), &["exit code", "meaning"]);

    // clap exits with 2 on a wrong command line, and so does the program on a wrong configuration.
    let reasons = [ExitReason::Clean, ExitReason::Crashed, ExitReason::Forced];
    let mut codes = reasons.map(ExitReason::exit_code).to_vec();
    codes.insert(2, 2);
    let listed: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(listed, codes.iter().map(u8::to_string).collect::<Vec<_>>());
}
