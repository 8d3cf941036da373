//! Supervisors as values: which children they have, and how they are supervised.

use std::{sync::Arc, time::Duration};

use super::{
    actor_ref::{ActorRef, Incarnation},
    child::{ChildSpec, Place, Starting},
    diagnostics::NodeKind,
    dynamic::DynamicChildren,
    node::{KILL_GRACE, Node, Profile},
    plan::{Family, Rules},
    restart::{Backoff, Intensity, Strategy},
    shell::{self, Blueprint, Msg, Shell},
};

/// How long a dynamic supervisor may take to stop, with all its children at once.
/// Limit: stop of a dynamic supervisor with all its children: 30 s; past it: what is left is killed.
const STOP_DYNAMIC: Duration = Duration::from_secs(30);

/// A supervisor with a fixed list of children.
pub type SupervisorSpec = SupervisorOf<Fixed>;

/// A supervisor of dynamic children.
pub type DynamicSpec = SupervisorOf<Dynamic>;

/// A supervisor of such `children`.
#[derive(Debug, Clone)]
pub struct SupervisorOf<C> {
    id: Arc<str>,
    intensity: Intensity,
    backoff: Backoff,
    stop_within: Option<Duration>,
    shown_as: Option<Arc<str>>,
    children: C,
}

/// A fixed list of children, which start in its order and stop in reverse.
#[derive(Debug, Clone)]
pub struct Fixed {
    strategy: Strategy,
    list: Vec<ChildSpec>,
}

/// Children that come and go.
#[derive(Debug, Clone)]
pub struct Dynamic {
    handle: DynamicChildren,
    quarantine: Backoff,
}

// === impl SupervisorOf ===

impl<C> SupervisorOf<C> {
    fn of(id: Arc<str>, children: C) -> Self {
        let (intensity, backoff) = (Intensity::default(), Backoff::default());
        Self { id, intensity, backoff, stop_within: None, shown_as: None, children }
    }

    /// How many restarts it tolerates. Past that a supervisor of a fixed list gives up; a dynamic one counts for each
    /// child, and the child goes into quarantine.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// How long it waits before a restart.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long it may take to stop with all its children before they are killed. Default: what the children of a fixed
    /// list may take one after the other; 30 s for dynamic children, which stop all at once.
    pub fn stop_within(mut self, budget: Duration) -> Self {
        self.stop_within = Some(budget);
        self
    }

    /// The name that people know the supervisor by, where its id says little to them. Snapshots, events and crash reports
    /// of the supervisor and of everything below it carry the name. Default: none.
    pub fn shown_as(mut self, name: impl Into<Arc<str>>) -> Self {
        self.shown_as = Some(name.into());
        self
    }

    fn rules(&self, family: Family) -> Rules {
        Rules { family, intensity: self.intensity, backoff: self.backoff }
    }
}

impl SupervisorOf<Fixed> {
    /// A supervisor without children yet, with the default intensity and back-off.
    pub fn new(id: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        Self::of(id.into(), Fixed { strategy, list: Vec::new() })
    }

    /// Adds a child. They start in the order they are added and stop in reverse.
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.list.push(child);
        self
    }

    /// Adds a supervisor as the next child.
    pub fn supervisor(self, supervisor: SupervisorSpec) -> Self {
        self.child(supervisor.into())
    }

    /// Adds a supervisor of dynamic children as the next child.
    pub fn dynamic(self, dynamic: DynamicSpec) -> Self {
        self.child(dynamic.into())
    }

    pub(super) fn blueprint(&self) -> Blueprint {
        let rules = self.rules(Family::Static(self.children.strategy));
        Blueprint { id: self.id.clone(), rules, children: self.children.list.as_slice().into() }
    }
}

impl SupervisorOf<Dynamic> {
    /// A dynamic supervisor that takes orders through `children`.
    pub fn new(id: impl Into<Arc<str>>, children: &DynamicChildren) -> Self {
        let (first, cap) = (Duration::from_secs(30), Duration::from_secs(600));
        let quarantine = Backoff { first, cap, ..Backoff::default() };
        Self::of(id.into(), Dynamic { handle: children.clone(), quarantine })
    }

    /// How long a child stays in quarantine before each retry. Default: 30 s, doubling to 10 min. A child that then
    /// stays up for the intensity's span is forgiven.
    pub fn quarantine(mut self, quarantine: Backoff) -> Self {
        self.children.quarantine = quarantine;
        self
    }
}

impl From<SupervisorSpec> for ChildSpec {
    fn from(spec: SupervisorSpec) -> Self {
        let list = &spec.children.list;
        // Children stop one after the other, and one that was just starting is let finish first.
        let one_by_one = list.iter().map(|child| child.profile.start_and_stop());
        let stop_within =
            spec.stop_within.unwrap_or_else(|| one_by_one.fold(KILL_GRACE, Duration::saturating_add));
        supervising(spec.blueprint(), "supervisor", stop_within, |_, _| {}).shown_as(spec.shown_as)
    }
}

impl From<DynamicSpec> for ChildSpec {
    fn from(spec: DynamicSpec) -> Self {
        let Dynamic { ref handle, quarantine } = spec.children;
        let (rules, handle) = (spec.rules(Family::Dynamic { quarantine }), handle.clone());
        let blueprint = Blueprint { id: spec.id, rules, children: Arc::new([]) };
        let stop_within = spec.stop_within.unwrap_or(STOP_DYNAMIC);
        supervising(blueprint, "dynamic", stop_within, move |supervisor, node| {
            handle.serve(supervisor, node);
        })
        .shown_as(spec.shown_as)
    }
}

/// A supervisor as a child of another. `on_up` is shown each incarnation that is up.
fn supervising(
    blueprint: Blueprint,
    label: &'static str,
    stop_within: Duration,
    on_up: impl Fn(ActorRef<Msg>, Arc<Node>) + Send + Sync + 'static,
) -> ChildSpec {
    let starts = blueprint.children.iter().map(|child| child.profile.start_timeout);
    let profile = Profile {
        id: blueprint.id.clone(),
        kind: NodeKind::Supervisor,
        label,
        shown_as: None,
        start_timeout: starts.fold(KILL_GRACE, Duration::saturating_add),
        stop_within,
        hung_after: None,
    };
    let on_up = Arc::new(on_up);
    let start = move |place: Place| -> Starting {
        let (blueprint, on_up) = (blueprint.clone(), on_up.clone());
        Box::pin(async move {
            let Place { supervisor, node, observer } = place;
            let (actor, _) = shell::launch(blueprint, node.clone(), observer, Some(supervisor)).await?;
            on_up(actor.clone(), node);
            Ok(Arc::new(Shell(actor)) as Arc<dyn Incarnation>)
        })
    };
    ChildSpec::new(profile, start)
}
