//! The race: all contestants by turns, round after round, so that what else the machine does hits all alike.

use serde::Serialize;

use crate::Result;
use crate::contestant::Contestant;
use crate::job::{Files, Size};
use crate::player::{Introduction, Player, Spin};

const ROUNDS_OF_A_HEAT: usize = 4;

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
        Self { rounds: 12, iterations: 100, validations: 3 }
    }

    /// Long enough to see that all works.
    pub(crate) fn quick() -> Self {
        Self { rounds: 2, iterations: 3, validations: 1 }
    }

    /// Gives the rounds of each heat.
    pub(crate) fn heats(&self) -> impl Iterator<Item = usize> {
        (0..self.rounds).step_by(ROUNDS_OF_A_HEAT).map(|begun| ROUNDS_OF_A_HEAT.min(self.rounds - begun))
    }

    /// Counts the iterations of the last heat, those of its warm-up too.
    pub(crate) fn last_iterations(&self) -> usize {
        (self.heats().last().unwrap_or(0) + 1) * self.iterations
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
    /// On the validation set at the end of the last heat.
    pub(crate) accuracy: f64,
    /// In bytes.
    pub(crate) peak_memory: Option<u64>,
}

/// Chooses the times of one thing: of iterations, of validations or of saves.
pub(crate) type Times = fn(&Standing) -> &Vec<f64>;

impl Standing {
    fn new(contestant: &Contestant) -> Self {
        let (contestant, introduction) = (contestant.clone(), Introduction::default());
        let [iteration, validation, save] = [const { Vec::new() }; 3];
        Self { contestant, introduction, iteration, validation, save, accuracy: 0.0, peak_memory: None }
    }
}

/// Lets all play, in heats with fresh processes: how a process's memory happens to lie makes it faster or slower to its end.
pub(crate) fn run(contestants: &[Contestant], files: &Files, lengths: &Lengths) -> Result<Vec<Standing>> {
    let mut standings: Vec<_> = contestants.iter().map(Standing::new).collect();
    for (heat, rounds) in lengths.heats().enumerate() {
        eprintln!("Heat {} of {}", heat + 1, lengths.heats().count());
        run_heat(&mut standings, files, lengths, rounds)?;
    }
    Ok(standings)
}

/// Lets all play some rounds; one before them warms up and is not counted.
fn run_heat(standings: &mut [Standing], files: &Files, lengths: &Lengths, rounds: usize) -> Result<()> {
    let mut players = Vec::new();
    for standing in standings {
        let player = Player::start(&standing.contestant, files, &Size::TUTORIAL, Spin::Briefly)?;
        standing.introduction = player.introduction.clone();
        players.push((standing, player));
    }
    for round in 0..=rounds {
        // Each is the first in some round.
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
    for (standing, player) in players {
        standing.peak_memory = standing.peak_memory.max(player.peak_memory());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rounds_are_run_in_heats() {
        let heats = |rounds| Lengths { rounds, ..Lengths::full() }.heats().collect::<Vec<_>>();
        assert_eq!([heats(12), heats(9), heats(2)], [vec![4, 4, 4], vec![4, 4, 1], vec![2]]);
    }
}
