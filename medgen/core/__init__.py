"Files, tables and progress, parameters, processes: what every other room uses."
