// What the clusters are called: the method's own, after the decisions that were made on this page, and at a level of
// their tree. `raydc edit` does the same with the decisions that this page saves.

const NOWHERE = -1;

class Clusters {
  constructor(list, joins) {
    this.list = list;
    this.joins = joins;
    this.decisions = [];
    this.level = null;
    this.renew();
  }

  get ids() {
    return [...new Set(this.shown.values())].filter((id) => id !== NOWHERE).sort((a, b) => a - b);
  }

  // The id that a cluster of the model has here; NOWHERE where it was dropped.
  of(id) {
    return this.shown.get(id);
  }

  nameOf(id) {
    return this.names.get(id) || "";
  }

  // The clusters of the model that are one here.
  members(id) {
    return this.list.filter((cluster) => this.of(cluster.id) === id);
  }

  decide(decision) {
    this.decisions.push(decision);
    this.level = null;
    this.renew();
  }

  undo() {
    this.decisions.pop();
    this.renew();
  }

  cut(level) {
    this.level = level;
    this.renew();
  }

  // The level as decisions: clusters that it joins are merged.
  adopt() {
    const groups = this.ids.map((id) => this.members(id).map((cluster) => cluster.id)).filter((group) => group.length > 1);
    for (const clusters of groups) this.decisions.push({ kind: "merge", clusters });
    this.level = null;
    this.renew();
  }

  // Why a decision cannot be made; empty if it can. The same rules as those of `raydc edit`.
  refuses(decision) {
    if (decision.kind === "merge" && decision.clusters.length < 2) return "Tick two clusters or more to merge them.";
    if (decision.kind === "drop" && this.ids.length < 2) return "One cluster has to stay.";
    if (decision.kind === "rename") {
      const taken = [...this.names].find(([id, name]) => id !== decision.cluster && name === decision.name);
      if (taken) return `Cluster ${taken[0]} is called ${decision.name} already: take another name, or merge them.`;
    }
    return "";
  }

  renew() {
    this.shown = new Map(this.list.map(({ id }) => [id, id]));
    this.names = new Map(this.list.filter(({ name }) => name).map(({ id, name }) => [id, name]));
    for (const decision of this.decisions) this.apply(decision);
    if (this.level !== null) this.join();
  }

  apply(decision) {
    if (decision.kind === "rename") {
      this.names.set(decision.cluster, decision.name);
      return;
    }
    const [stays, gone] = decision.kind === "drop" ? [NOWHERE, [decision.cluster]] : [decision.clusters[0], decision.clusters.slice(1)];
    for (const [id, now] of this.shown) if (gone.includes(now)) this.shown.set(id, stays);
    for (const id of gone) this.names.delete(id);
  }

  join() {
    let many = this.ids.length;
    for (const [one, other] of this.joins) {
      if (many <= this.level) break;
      const first = this.shown.get(one), second = this.shown.get(other);
      if (first === second) continue;
      const [stays, goes] = first < second ? [first, second] : [second, first];
      for (const [id, now] of this.shown) if (now === goes) this.shown.set(id, stays);
      many -= 1;
    }
  }
}
