//! `cargo xtask coherence`: asks pinhole and virtiofsd questions about several guests on one
//! directory.
//!
//! The questions are those of the test suites (`pinhole_tests::sharing`). Here, a "no" is not an
//! error. The result is a table on the terminal and, with `--write`, docs/measured/coherence.md.

mod page;

use pinhole_tests::sharing::{Participants, QUESTIONS, Question, Subject};

use crate::conditions::Conditions;
use crate::console::say;
use crate::needs::Need;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};
use crate::workspace;
use page::QuestionRow;

/// Time for writing databases, in seconds, unless `PINHOLE_SHARING_SECONDS` is set. The test suite
/// uses less time.
const DATABASES_SECONDS: u32 = 60;

/// Parts of the test guests that the questions need.
pub(crate) const NEEDS: &[Need] = &[Need::Base, Need::Userland];

/// Selects the questions and the output.
#[derive(Debug, clap::Args)]
pub(crate) struct CoherenceArguments {
    /// Ask only these questions, by name
    #[arg(long, value_delimiter = ',', value_name = "NAME", conflicts_with = "write")]
    only: Vec<String>,
    /// Number of guests beside the host
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8), conflicts_with = "write")]
    guests: u8,
    /// Write docs/measured/coherence.md
    #[arg(long)]
    write: bool,
}

/// Asks the selected questions. `load` is the load average before the build.
pub(crate) fn main(arguments: &CoherenceArguments, load: &str) -> Outcome {
    let program = programs::pinhole()?;
    let chosen: Vec<&'static Question> = QUESTIONS
        .into_iter()
        .flatten()
        .filter(|question| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == question.name)
        })
        .collect();
    if chosen.is_empty() {
        return Err(Failure::new(
            "no question has that name; without --only, all questions are asked and their names printed",
        ));
    }
    let mut rows: Vec<QuestionRow> =
        chosen.into_iter().map(|question| QuestionRow { question, answers: Vec::new() }).collect();
    for subject in Subject::ALL {
        let participants = Participants::new(&program, subject, usize::from(arguments.guests));
        let mut participants = participants.databases_for(DATABASES_SECONDS);
        answer_questions(subject, &mut participants, &mut rows)?;
    }
    say(format!("\n{}", page::table(&rows).plain()));
    if arguments.write {
        let conditions = Conditions::of_run(&program, RunFolder::new()?.path(), load);
        page::write(&rows, &conditions, &workspace::root())?;
    }
    Ok(())
}

/// Asks one subject all questions, and adds its answers to `rows`.
fn answer_questions(subject: Subject, participants: &mut Participants, rows: &mut [QuestionRow]) -> Outcome {
    say(format!("\n== {subject}"));
    for row in rows {
        let answer = match row.question.ask(participants) {
            Ok(counted) => Ok(counted),
            Err(fault) if fault.is_answer() => Err(fault.to_string()),
            Err(fault) => return Err(Failure::new(format!("{subject}: {}: {fault}", row.question.name))),
        };
        say(match &answer {
            Ok(counted) => format!("yes  {}: {counted}", row.question.name),
            Err(why) => format!("no   {}: {why}", row.question.name),
        });
        row.answers.push(answer);
    }
    Ok(())
}
