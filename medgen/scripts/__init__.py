"The commands: thin front doors of the other rooms."
