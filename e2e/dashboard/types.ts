// What a dashboard's JSON may be: Grafana's own types, with each enum as the text or number that stands in JSON for it, and each
// panel with the options of its own type. A key that Grafana does not know is an error, and so is a value it would not take.
import type { Dashboard, DataQuery, DataSourceRef, GraphFieldConfig, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as states from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as series from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : never
    : T extends Array<infer E>
      ? Array<Plain<E>>
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T;

/** Grafana's schema has no type for a query of the Prometheus data source: what is used of it. */
interface PrometheusQuery extends DataQuery {
  datasource: DataSourceRef;
  expr: string;
  legendFormat: string;
  editorMode: 'code';
  range: boolean;
  instant: boolean;
  format: 'time_series' | 'table' | 'heatmap';
}

type Of<Type extends string, Options, Custom> = Plain<Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'>> & {
  type: Type;
  options: Plain<Options>;
  targets: PrometheusQuery[];
  fieldConfig: Plain<Omit<NonNullable<Panel['fieldConfig']>, 'defaults'>> & {
    defaults: Plain<Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'>> & { custom?: Plain<Custom> };
  };
};

type AnyPanel =
  | Plain<RowPanel>
  | Of<'stat', stat.Options, Record<never, never>>
  | Of<'timeseries', series.Options, GraphFieldConfig>
  | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Of<'state-timeline', states.Options, states.FieldConfig>
  | Of<'table', table.Options, table.FieldConfig>;

/** The query of a variable of the Prometheus data source, and what Grafana keeps beside the schema. */
type Variable = Plain<NonNullable<NonNullable<Dashboard['templating']>['list']>[number]> & { definition?: string };

export type Checked = Plain<Omit<Dashboard, 'panels' | 'templating'>> & {
  panels: AnyPanel[];
  templating: { list: Variable[] };
};
