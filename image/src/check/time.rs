//! Processor time: budgets that can be kept, deadlines that will be met, a supervisor that gets to run.

use crate::diagnostic::Findings;
use crate::manifest::{Manifest, Restart, RestartWord, Server};

/// Highest priority of a server: `init` may be above all.
const MOST_PRIORITY: u8 = 254;

/// Budget and period of a server that has both, in the right order.
fn demand(server: &Server) -> Option<(u64, u64)> {
    let (budget, period) = (*server.budget_us.as_ref()?.get_ref(), *server.period_us.as_ref()?.get_ref());
    (budget > 0 && budget <= period).then_some((budget, period))
}

/// The longest time from release to the end of the budget, by response-time analysis under fixed priorities.
/// `Err` names the server that can hold it up without limit; `Ok(None)` means later than `limit`.
pub fn response_us<'a>(manifest: &'a Manifest, server: &Server, limit: u64) -> Result<Option<u64>, &'a str> {
    let Some((own, _)) = demand(server) else { return Ok(None) };
    let mut others = Vec::new();
    for other in &manifest.servers {
        if other.name == server.name || other.priority.get_ref() < server.priority.get_ref() {
            continue;
        }
        others.push(demand(other).ok_or(other.name.get_ref().as_str())?);
    }
    let mut response = own;
    loop {
        let interference = others
            .iter()
            .fold(0u64, |sum, (budget, period)| sum.saturating_add(response.div_ceil(*period).saturating_mul(*budget)));
        let next = own.saturating_add(interference);
        if next == response {
            return Ok(Some(response));
        }
        if next > limit {
            return Ok(None);
        }
        response = next;
    }
}

fn budget(server: &Server, found: &mut Findings<'_>) {
    let who = server.name.get_ref();
    match (&server.budget_us, &server.period_us) {
        (Some(budget), Some(period)) => {
            let (b, p) = (*budget.get_ref(), *period.get_ref());
            if b == 0 || p == 0 {
                found.add(
                    budget.span(),
                    format!("server \"{who}\" has a budget of {b} µs in {p} µs"),
                    "use numbers above 0, or leave both out",
                );
            } else if b > p {
                found.add(
                    budget.span(),
                    format!("server \"{who}\" has a budget of {b} µs, more than its period of {p} µs"),
                    "lower the budget or raise the period",
                );
            }
        }
        (Some(budget), None) => {
            found.add(
                budget.span(),
                format!("server \"{who}\" has a budget, but no period to use it in"),
                "add period_us",
            );
        }
        (None, Some(period)) => {
            found.add(period.span(), format!("server \"{who}\" has a period, but no budget"), "add budget_us");
        }
        (None, None) => {}
    }
}

fn deadline(manifest: &Manifest, server: &Server, found: &mut Findings<'_>) {
    let Some(deadline) = &server.deadline_us else { return };
    let who = server.name.get_ref();
    let limit = *deadline.get_ref();
    if demand(server).is_none() {
        found.add(
            deadline.span(),
            format!("server \"{who}\" has a deadline, but no budget and period to meet it with"),
            "add budget_us and period_us",
        );
        return;
    }
    match response_us(manifest, server, limit) {
        Err(other) => found.add(
            deadline.span(),
            format!("server \"{who}\" has a deadline, but \"{other}\" runs at its priority or above without a budget"),
            format!("give \"{other}\" budget_us and period_us, or a lower priority"),
        ),
        Ok(Some(response)) if response <= limit => {}
        Ok(_) => {
            let above: Vec<_> = manifest
                .servers
                .iter()
                .filter(|o| o.name != server.name && o.priority.get_ref() >= server.priority.get_ref())
                .map(|o| format!("\"{}\"", o.name.get_ref()))
                .collect();
            found.add(
                deadline.span(),
                format!(
                    "server \"{who}\" would miss its deadline of {limit} µs{}",
                    if above.is_empty() { String::new() } else { format!(", held up by {}", above.join(", ")) }
                ),
                "lower budgets, raise its priority, or allow it more time",
            );
        }
    }
}

fn utilisation(manifest: &Manifest, found: &mut Findings<'_>) {
    let users: Vec<_> = manifest.servers.iter().filter_map(|s| demand(s).map(|d| (s, d))).collect();
    // In millionths, rounded up: what is over by less cannot be kept either.
    let parts = |d: &(u64, u64)| (u128::from(d.0) * 1_000_000).div_ceil(u128::from(d.1));
    let sum: u128 = users.iter().map(|(_, d)| parts(d)).sum();
    if sum > 1_000_000
        && let Some((last, _)) = users.last()
        && let Some(span) = last.budget_us.as_ref().map(|b| b.span())
    {
        let names: Vec<_> = users.iter().map(|(s, _)| format!("\"{}\"", s.name.get_ref())).collect();
        found.add(
            span,
            format!(
                "servers {} together want {}.{}% of one processor",
                names.join(", "),
                sum / 10_000,
                sum / 1000 % 10
            ),
            "lower budgets or raise periods",
        );
    }
}

fn supervision(manifest: &Manifest, server: &Server, found: &mut Findings<'_>) {
    let restart = &server.restart.0;
    let who = server.name.get_ref();
    if let Restart::Limited(limit) = restart.get_ref()
        && (limit.times == 0 || limit.window_ms == 0)
    {
        found.add(
            restart.span(),
            format!("server \"{who}\" is restarted {} times in {} ms", limit.times, limit.window_ms),
            "use numbers above 0, or \"never\" or \"always\"",
        );
    }
    if let Some(rebuild) =
        server.rebuild_priority.as_ref().filter(|rebuild| rebuild.get_ref() > server.priority.get_ref())
    {
        found.add(
            rebuild.span(),
            format!(
                "server \"{who}\" is rebuilt at priority {}, and has priority {} itself",
                rebuild.get_ref(),
                server.priority.get_ref()
            ),
            "its restart must not disturb whom it does not disturb itself: use at most its priority",
        );
    }
    let is_restarted = !matches!(restart.get_ref(), Restart::Unset | Restart::Word(RestartWord::Never));
    if is_restarted && manifest.init.priority.get_ref() <= server.priority.get_ref() {
        found.add(
            server.priority.span(),
            format!(
                "server \"{who}\" (priority {}) has a restart policy, but its supervisor init (priority {}) cannot get past it",
                server.priority.get_ref(),
                manifest.init.priority.get_ref()
            ),
            "raise priority in [init] above it",
        );
    }
}

fn ceiling(manifest: &Manifest, server: &Server, found: &mut Findings<'_>) {
    let Some(ceiling) = &server.ceiling else { return };
    let (who, init) = (server.name.get_ref(), *manifest.init.priority.get_ref());
    if *ceiling.get_ref() >= init {
        found.add(
            ceiling.span(),
            format!(
                "server \"{who}\" may make threads of priority {}, and init, which would have to stop them, has {init}",
                ceiling.get_ref()
            ),
            "use less, or raise priority in [init] above it",
        );
    }
    if server.untyped.0.get_ref().0 == 0 {
        found.add(
            ceiling.span(),
            format!("server \"{who}\" has a ceiling for threads of its own, and no memory to make them of"),
            "give it untyped, or leave ceiling out",
        );
    }
}

/// Checks priorities, budgets and restart policies.
pub fn check(manifest: &Manifest, found: &mut Findings<'_>) {
    for server in &manifest.servers {
        if *server.priority.get_ref() > MOST_PRIORITY {
            found.add(
                server.priority.span(),
                format!(
                    "server \"{}\" has priority {}, which is the supervisor's",
                    server.name.get_ref(),
                    server.priority.get_ref()
                ),
                format!("use at most {MOST_PRIORITY}"),
            );
        }
        budget(server, found);
        ceiling(manifest, server, found);
        deadline(manifest, server, found);
        supervision(manifest, server, found);
    }
    utilisation(manifest, found);
}
