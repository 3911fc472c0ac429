//! The race: all contestants by turns, round after round, so that what else the machine does hits all alike.

use serde::Serialize;

use crate::Result;
use crate::contestant::Contestant;
use crate::job::{Files, Size};
use crate::player::{Introduction, Player};

/// How long the race is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Lengths {
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Iterations in a round.
    pub(crate) iterations: usize,
    /// Validations in a round, and saves.
    pub(crate) validations: usize,
}

impl Lengths {
    /// Long enough to compare by.
    pub(crate) fn full() -> Self {
        Self { rounds: 11, iterations: 100, validations: 3 }
    }

    /// Long enough to see that all works.
    pub(crate) fn quick() -> Self {
        Self { rounds: 2, iterations: 3, validations: 1 }
    }

    /// Counts the iterations of all rounds, that of the warm-up too.
    pub(crate) fn all_iterations(&self) -> usize {
        (self.rounds + 1) * self.iterations
    }
}

/// What a contestant needed; times are means of a round, in seconds, one for each round.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) contestant: Contestant,
    pub(crate) introduction: Introduction,
    pub(crate) iteration: Vec<f64>,
    pub(crate) validation: Vec<f64>,
    pub(crate) save: Vec<f64>,
    /// On the validation set after the last round.
    pub(crate) accuracy: f64,
    /// In bytes.
    pub(crate) peak_memory: Option<u64>,
}

/// Chooses the times of one thing: of iterations, of validations or of saves.
pub(crate) type Times = fn(&Standing) -> &Vec<f64>;

impl Standing {
    fn new(contestant: &Contestant, introduction: &Introduction) -> Self {
        let (contestant, introduction) = (contestant.clone(), introduction.clone());
        let [iteration, validation, save] = [const { Vec::new() }; 3];
        Self { contestant, introduction, iteration, validation, save, accuracy: 0.0, peak_memory: None }
    }
}

/// Lets all play; the first round warms up and is not counted.
pub(crate) fn run(contestants: &[Contestant], files: &Files, lengths: &Lengths) -> Result<Vec<Standing>> {
    let mut players = Vec::new();
    for contestant in contestants {
        eprintln!("Starting {}", contestant.title);
        let player = Player::start(contestant, files, &Size::TUTORIAL)?;
        players.push((Standing::new(contestant, &player.introduction), player));
    }
    for round in 0..=lengths.rounds {
        eprintln!("Round {round} of {}", lengths.rounds);
        // Each comes once after each other, as far as there are rounds.
        players.rotate_left(usize::from(round > 0));
        for (standing, player) in &mut players {
            let iteration = player.train(lengths.iterations)? / lengths.iterations as f64;
            let [mut validation, mut save] = [0.0; 2];
            for _ in 0..lengths.validations {
                let validated = player.validate()?;
                standing.accuracy = validated.accuracy;
                validation += validated.seconds / lengths.validations as f64;
                save += player.save()? / lengths.validations as f64;
            }
            if round > 0 {
                standing.iteration.push(iteration);
                standing.validation.push(validation);
                standing.save.push(save);
            }
        }
    }
    let in_order = |id| contestants.iter().position(|contestant| contestant.id == id);
    let mut standings: Vec<_> = players
        .into_iter()
        .map(|(standing, player)| Standing { peak_memory: player.peak_memory(), ..standing })
        .collect();
    standings.sort_by_key(|standing| in_order(standing.contestant.id));
    Ok(standings)
}
