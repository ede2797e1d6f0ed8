from llmgate.cli.main import main

main()
